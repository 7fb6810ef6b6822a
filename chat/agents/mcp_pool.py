"""Connections to MCP servers: one for each, kept open by the worker, opened again when it is lost or its row changes.

Each is held by a task of its own, since the client has to be entered and left by the same one; calls come from the
tasks of runs.
"""

import asyncio
import logging
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import httpx2
from django.utils import timezone
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED, CallToolResult
from mcp.types import Tool as McpTool

from chat.agents.mcp_tools import as_tools
from chat.agents.tools.base import Tool, ToolError
from sessions_app.mcp_rules import VARIABLE, mistakes_in
from sessions_app.models import McpServer, McpTransport
from sessions_app.threads import in_database_thread

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
PAUSE_SECONDS = 30.0  # after a failure: until then no run waits for the server again
MAX_TOOLS = 200
_HTTP_TIMEOUT = httpx2.Timeout(30.0, read=3_600.0)  # a call's own time limit is the tool's


@in_database_thread
def _servers(names: Sequence[str] | None) -> list[McpServer]:
    servers = McpServer.objects.filter(is_enabled=True)
    return list(servers if names is None else servers.filter(name__in=names))


@in_database_thread
def _note(server_id: int, error: str, tools: list[str] | None) -> None:
    """For the operator: what it offers, or why it cannot be used."""
    found: dict[str, Any] = {} if tools is None else {"listed_tools": tools, "last_seen_at": timezone.now()}
    McpServer.objects.filter(pk=server_id).update(last_error=error[:1_000], **found)


_pools: "WeakKeyDictionary[asyncio.AbstractEventLoop, McpPool]" = WeakKeyDictionary()


def mcp_pool() -> "McpPool":
    """The event loop's one pool."""
    return _pools.setdefault(asyncio.get_running_loop(), McpPool())


class McpPool:
    """Of one worker, on its event loop."""

    def __init__(self) -> None:
        self._connections: dict[str, _Connection] = {}

    async def tools_of(self, names: Sequence[str], tell: Callable[[dict[str, Any]], None]) -> dict[str, Tool]:
        """The tools of these servers. One that cannot be reached is told of and left out."""
        servers = {server.name: server for server in await _servers(names)}
        connections = [self._connection(servers[name]) for name in names if name in servers]
        found = await asyncio.gather(*(connection.tools() for connection in connections))
        tools: dict[str, Tool] = {}
        for connection, offered in zip(connections, found, strict=True):
            if offered is None:
                tell({"status": "tools_unavailable", "mcp_server": connection.server.name})
            tools |= offered or {}
        for name in names:
            if name not in servers:
                tell({"status": "tools_unavailable", "mcp_server": name})
        return tools

    async def refresh(self) -> None:
        """Connect to what is enabled, so that no run has to wait for it, and drop what is not."""
        servers = await _servers(None)
        for name in set(self._connections) - {server.name for server in servers}:
            self._connections.pop(name).close()
        await asyncio.gather(*(self._connection(server).tools() for server in servers))

    def _connection(self, server: McpServer) -> "_Connection":
        known = self._connections.get(server.name)
        if known is None or known.server.updated_at != server.updated_at:
            if known is not None:
                known.close()
            known = self._connections[server.name] = _Connection(server)
        return known


class _Connection:
    """To one server, as its row was at `server.updated_at`."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self._client: Client | None = None
        self._tools: dict[str, Tool] = {}
        self._opening: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._failed_at = -PAUSE_SECONDS
        self._is_over = asyncio.Event()

    async def tools(self) -> dict[str, Tool] | None:
        """Its tools by name; None while it cannot be reached."""
        if self._client is None and time.monotonic() - self._failed_at < PAUSE_SECONDS:
            return None
        if self._client is None:
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_future()
                self._is_over = asyncio.Event()
                self._task = asyncio.create_task(self._hold(self._opening), name=f"mcp-{self.server.name}")
            await asyncio.shield(self._opening)
        return self._tools if self._client is not None else None

    def close(self) -> None:
        self._is_over.set()

    async def _hold(self, opening: "asyncio.Future[None]") -> None:
        """Open the connection, and keep it until it is over; `opening` is done when it is open or has failed."""
        error = ""
        try:
            async with asyncio.timeout(CONNECT_SECONDS) as limit, _open(self.server) as client:
                offered = await _list(client)
                limit.reschedule(None)
                self._client, self._tools = client, as_tools(self.server, offered, self._call)
                await _note(self.server.pk, "", [tool.name for tool in offered])
                opening.set_result(None)
                await self._is_over.wait()
        except Exception as failure:
            error = _reason(failure)
            if not opening.done():  # one that was open and is lost may be back at once
                self._failed_at = time.monotonic()
        finally:
            self._client, self._opening = None, None
            if not opening.done():
                opening.set_result(None)
        if error:
            logger.warning("The MCP server %s cannot be used: %s", self.server.name, error)
            await _note(self.server.pk, error, None)

    async def _call(self, name: str, args: dict[str, Any]) -> CallToolResult:
        client = self._client
        if client is None:
            raise ToolError(f"The MCP server {self.server.name} cannot be reached now.")
        try:
            return await client.call_tool(name, args)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                self._is_over.set()  # the next run opens it anew
            raise ToolError(f"The MCP server {self.server.name} says: {_reason(error)[:500]}") from None
        except Exception as error:
            logger.warning("The MCP server %s failed in %s: %s", self.server.name, name, _reason(error))
            self._is_over.set()  # the next run opens it anew
            raise ToolError(f"The MCP server {self.server.name} failed: {_reason(error)[:200]}") from None


@asynccontextmanager
async def _open(server: McpServer) -> AsyncIterator[Client]:
    if mistakes := mistakes_in(server):  # the settings may have changed since it was saved
        raise ValueError("; ".join(each for found in mistakes.values() for each in found))
    if server.transport == McpTransport.STDIO:
        command, *args = server.command
        parameters = StdioServerParameters(command=command, args=args)
        async with Client(stdio_client(parameters, errlog=sys.__stderr__ or sys.stderr)) as client:
            yield client
        return
    headers = {name: VARIABLE.sub(_from_environment, value) for name, value in server.headers.items()}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=_HTTP_TIMEOUT, follow_redirects=True) as http_client,
        Client(streamable_http_client(server.url, http_client=http_client)) as client,
    ):
        yield client


def _from_environment(found: re.Match[str]) -> str:
    return os.environ.get(found[1], "")


async def _list(client: Client) -> list[McpTool]:
    tools: list[McpTool] = []
    cursor: str | None = None
    while len(tools) < MAX_TOOLS:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return tools[:MAX_TOOLS]


def _reason(error: BaseException) -> str:
    """In a line; what task groups raise says nothing by itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return str(error).partition("\n")[0] or type(error).__name__

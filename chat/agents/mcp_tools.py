"""The tools of MCP servers, as tools of ours."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as McpTool

from chat.agents.tools.base import Tool, ToolContext, ToolError
from sessions_app.models import McpServer

MAX_NAME_CHARACTERS = 64  # what models' servers allow
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")

Call = Callable[[str, dict[str, Any]], Awaitable[CallToolResult]]


def as_tools(server: McpServer, offered: list[McpTool], call: Call) -> dict[str, Tool]:
    """Those of the server's tools that its row allows, by the names under which models call them."""
    allowed = [tool for tool in offered if not server.allowed_tools or tool.name in server.allowed_tools]
    tools = [_as_tool(server, tool, call) for tool in allowed]
    return {tool.name: tool for tool in tools}


def _as_tool(server: McpServer, tool: McpTool, call: Call) -> Tool:
    async def function(context: ToolContext, /, **args: Any) -> Any:
        return read_result(await call(tool.name, args))

    hints = tool.annotations
    says_idempotent = bool(hints and (hints.read_only_hint or hints.idempotent_hint))
    return Tool(
        name=_FORBIDDEN.sub("_", f"{server.name}_{tool.name}")[:MAX_NAME_CHARACTERS],
        description=tool.description or tool.title or tool.name,
        parameters=tool.input_schema,
        function=function,
        timeout_seconds=float(server.timeout_seconds),
        is_idempotent=says_idempotent or tool.name in server.idempotent_tools,
        needs_approval=tool.name in server.approval_tools,
    )


def read_result(result: CallToolResult) -> Any:
    """What the model reads of a result: its structured content, else its text; raises ToolError for an error."""
    texts = [part.text for part in result.content if isinstance(part, TextContent)]
    others = [part.model_dump(mode="json") for part in result.content if not isinstance(part, TextContent)]
    if result.is_error:
        raise ToolError("\n".join(texts) or "The tool failed.")
    if result.structured_content is not None:
        return result.structured_content
    return {"text": "\n".join(texts), "parts": others} if others else "\n".join(texts)

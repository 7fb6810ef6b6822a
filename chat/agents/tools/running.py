"""Running tool calls: checked, in time, several at once. What goes wrong becomes a result that the model reads."""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from typing import Any

import orjson
from django.conf import settings
from django.db import close_old_connections
from pydantic_core import PydanticSerializationError, to_jsonable_python

from chat.agents.events import ToolCall, ToolResult
from chat.agents.tools.base import Ledger, NoToolRate, Tool, ToolContext, ToolError, ToolRate
from chat.agents.tools.stored import shorten
from monitoring.speculation import USED, WASTED, speculation

logger = logging.getLogger(__name__)

_NO_RATE = NoToolRate()


@cache
def _threads() -> ThreadPoolExecutor:
    """Of their own: asyncio's few would all be taken by the first tools that hang."""
    return ThreadPoolExecutor(settings.TOOL_THREADS, thread_name_prefix="tool")


async def run_tool(tool: Tool | None, call: ToolCall, context: ToolContext) -> ToolResult:
    """Run one call. Whatever goes wrong becomes an error result for the model; only cancellation escapes."""
    started = time.monotonic()
    try:
        result, is_error = _as_json_value(await _run(tool, call, context)), False
    except ToolError as error:
        result, is_error = str(error), True
    except TimeoutError:
        result, is_error = f"The tool {call.tool} did not answer in time.", True
    except Exception:
        logger.exception("The tool %s failed", call.tool)
        result, is_error = f"The tool {call.tool} failed.", True
    duration_ms = round((time.monotonic() - started) * 1_000)
    return shorten(ToolResult(call.id, call.tool, result, is_error, duration_ms))


def _as_json_value(result: Any) -> Any:
    """The result as JSON: models, dataclasses and dates too. What cannot be is the tool's failure, not the run's."""
    try:
        orjson.dumps(result)
        return result
    except TypeError:
        pass
    try:
        return to_jsonable_python(result)
    except PydanticSerializationError as error:
        raise ToolError(f"The tool's result is not JSON: {error}") from None


async def _run(tool: Tool | None, call: ToolCall, context: ToolContext) -> Any:
    if tool is None:
        raise ToolError(f"There is no tool {call.tool!r}.")
    args = tool.read(call.args)
    try:
        inspect.signature(tool.function).bind(context, **args)
    except TypeError as error:
        raise ToolError(f"The arguments do not fit: {error}") from None
    if inspect.iscoroutinefunction(tool.function):
        async with asyncio.timeout(tool.timeout_seconds):
            return await tool.function(context, **args)
    return await _run_in_thread(tool, args, context)


def _call(tool: Tool, args: dict[str, Any], context: ToolContext) -> Any:
    try:
        return tool.function(context, **args)
    finally:
        close_old_connections()  # if it used the database, this thread's connection goes back to the pool


async def _run_in_thread(tool: Tool, args: dict[str, Any], context: ToolContext) -> Any:
    """A thread cannot be stopped: whoever is told that the run was cancelled must know that its tool has ended."""
    loop = asyncio.get_running_loop()
    running = loop.run_in_executor(_threads(), partial(_call, tool, args, context))
    try:
        await asyncio.wait({running}, timeout=tool.timeout_seconds)
    except asyncio.CancelledError:
        await asyncio.wait({running}, timeout=tool.timeout_seconds)
        raise
    if not running.done():
        raise TimeoutError
    return running.result()


class ToolRunner:
    """Runs the calls of one run. Each is counted first; the ledger learns of those that a crash must not repeat."""

    def __init__(
        self,
        tools: dict[str, Tool],
        context: ToolContext,
        ledger: Ledger,
        *,
        rate: ToolRate = _NO_RATE,
        limit: int = 8,
    ) -> None:
        self._tools = tools
        self._context = context
        self._ledger = ledger
        self._rate = rate
        self._free = asyncio.Semaphore(limit)
        self._ahead: dict[str, tuple[dict[str, Any], asyncio.Task[ToolResult]]] = {}  # by call id

    async def run(self, calls: Sequence[ToolCall]) -> AsyncIterator[ToolResult]:
        """Run the calls of one answer at once, as far as the limit allows; each result as soon as it is there."""
        ahead = {call.id: task for call in calls if (task := self._take_ahead(call))}
        new = [call for call in calls if call.id not in ahead]
        tasks = list(ahead.values())
        try:
            late = await self._rate.take(new)
            await self._announce([call for call in new if call.id not in late])
            tasks += [self._start(call, is_late=call.id in late) for call in new]
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            await _stop(tasks)

    def start_ahead(self, call: ToolCall) -> None:
        """Start an idempotent call before the model's answer has ended; it is `run` or `drop_ahead` that ends it."""
        tool = self._tools.get(call.tool)
        if tool is not None and tool.is_idempotent and call.id not in self._ahead:
            self._ahead[call.id] = (call.args, self._start(call, is_late=True))

    async def drop_ahead(self) -> None:
        """Stop what was started ahead and then not asked for."""
        speculation.count("tool", WASTED, len(self._ahead))
        tasks = [task for _, task in self._ahead.values()]
        self._ahead.clear()
        await _stop(tasks)

    def _take_ahead(self, call: ToolCall) -> "asyncio.Task[ToolResult] | None":
        args, task = self._ahead.get(call.id, (None, None))
        if task is None or args != call.args:
            return None
        del self._ahead[call.id]
        speculation.count("tool", USED)
        return task

    def _start(self, call: ToolCall, *, is_late: bool) -> "asyncio.Task[ToolResult]":
        return asyncio.create_task(self._run_late(call) if is_late else self._run_when_free(call), name=call.id)

    async def _announce(self, calls: Sequence[ToolCall]) -> None:
        careful = [call for call in calls if (tool := self._tools.get(call.tool)) and not tool.is_idempotent]
        if careful:
            await self._ledger.start(careful)

    async def _run_late(self, call: ToolCall) -> ToolResult:
        """A call that has not been counted yet. While it waits for room it is in nobody's way."""
        try:
            await self._rate.wait(call, seconds=settings.TOOL_RATE_WAIT_SECONDS)
        except ToolError as error:
            return ToolResult(call.id, call.tool, str(error), is_error=True)
        await self._announce([call])
        return await self._run_when_free(call)

    async def _run_when_free(self, call: ToolCall) -> ToolResult:
        context = replace(self._context, call_id=call.id, idempotency_key=self._ledger.key_of(call.id))
        async with self._free:
            return await run_tool(self._tools.get(call.tool), call, context)


async def _stop(tasks: "Sequence[asyncio.Task[ToolResult]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""A tool: a function that an agent may call, with what the model is told of it."""

import asyncio
import inspect
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from chat.agents.events import ToolCall, ToolResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ToolContext:
    """Where a tool is called from."""

    session_id: uuid.UUID
    run_id: uuid.UUID


@dataclass(frozen=True)
class Tool:
    """`function(context, **arguments)` returns a JSON value; a plain function runs in a thread.

    `parameters` is the JSON schema of the arguments.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    function: Callable[..., Any]
    timeout_seconds: float = 30.0


class ToolError(Exception):
    """What a tool raises to tell the model, in a sentence, what was wrong with the call."""


async def run_tool(tool: Tool | None, call: ToolCall, context: ToolContext) -> ToolResult:
    """Run one call. Whatever goes wrong becomes an error result for the model; only cancellation escapes."""
    started = time.monotonic()
    try:
        result, is_error = await _run(tool, call, context), False
        orjson.dumps(result)  # a result that is not JSON is the tool's failure, not the run's
    except ToolError as error:
        result, is_error = str(error), True
    except TimeoutError:
        result, is_error = f"The tool {call.tool} did not answer in time.", True
    except TypeError as error:
        result, is_error = f"The arguments do not fit: {error}", True
    except Exception:
        logger.exception("The tool %s failed", call.tool)
        result, is_error = f"The tool {call.tool} failed.", True
    duration_ms = round((time.monotonic() - started) * 1_000)
    return ToolResult(call.id, call.tool, result, is_error, duration_ms)


async def _run(tool: Tool | None, call: ToolCall, context: ToolContext) -> Any:
    if tool is None:
        raise ToolError(f"There is no tool {call.tool!r}.")
    inspect.signature(tool.function).bind(context, **call.args)  # raises TypeError
    async with asyncio.timeout(tool.timeout_seconds):
        if inspect.iscoroutinefunction(tool.function):
            return await tool.function(context, **call.args)
        return await asyncio.to_thread(tool.function, context, **call.args)


async def run_tools(
    tools: dict[str, Tool], calls: tuple[ToolCall, ...], context: ToolContext
) -> AsyncIterator[ToolResult]:
    """Run the calls of one answer at once; each result as soon as it is there."""
    tasks = [asyncio.create_task(run_tool(tools.get(call.tool), call, context), name=call.id) for call in calls]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

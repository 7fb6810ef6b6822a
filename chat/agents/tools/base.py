"""A tool: a function that an agent may call, with what the model is told of it."""

import asyncio
import inspect
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson

from chat.agents.events import ToolCall, ToolResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ToolContext:
    """Where a tool is called from."""

    session_id: uuid.UUID
    run_id: uuid.UUID
    call_id: str = ""
    idempotency_key: str = ""  # the same whenever this call is repeated: hand it on to what the tool calls


class Ledger(Protocol):
    """Where the starts of tools are on record, so that no crash repeats what took effect."""

    async def start(self, calls: Sequence[ToolCall]) -> None:
        """Record that these calls start now; if this raises, none of them may."""

    def key_of(self, call_id: str) -> str:
        """The call's idempotency key."""


class NoLedger:
    """For agents that run outside a worker, as in a test of a tool."""

    async def start(self, calls: Sequence[ToolCall]) -> None:
        return None

    def key_of(self, call_id: str) -> str:
        return call_id


@dataclass(frozen=True)
class Tool:
    """`function(context, **arguments)` returns a JSON value; a plain function runs in a thread.

    `parameters` is the JSON schema of the arguments. `is_idempotent` says that a call may be repeated without harm,
    which is done when its worker was lost; of other tools the outcome is then unknown and a person decides.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    function: Callable[..., Any]
    timeout_seconds: float = 30.0
    is_idempotent: bool = False


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
    if inspect.iscoroutinefunction(tool.function):
        async with asyncio.timeout(tool.timeout_seconds):
            return await tool.function(context, **call.args)
    return await _run_in_thread(tool, call, context)


async def _run_in_thread(tool: Tool, call: ToolCall, context: ToolContext) -> Any:
    """A thread cannot be stopped: whoever is told that the run was cancelled must know that its tool has ended."""
    running = asyncio.ensure_future(asyncio.to_thread(tool.function, context, **call.args))
    try:
        await asyncio.wait({running}, timeout=tool.timeout_seconds)
    except asyncio.CancelledError:
        await asyncio.wait({running}, timeout=tool.timeout_seconds)
        raise
    if not running.done():
        raise TimeoutError
    return running.result()


async def run_tools(
    tools: dict[str, Tool], calls: tuple[ToolCall, ...], context: ToolContext, ledger: Ledger
) -> AsyncIterator[ToolResult]:
    """Run the calls of one answer at once; each result as soon as it is there.

    The ledger learns of those first that a crash must not repeat.
    """
    if careful := [call for call in calls if (tool := tools.get(call.tool)) and not tool.is_idempotent]:
        await ledger.start(careful)
    tasks = [
        asyncio.create_task(
            run_tool(
                tools.get(call.tool),
                call,
                replace(context, call_id=call.id, idempotency_key=ledger.key_of(call.id)),
            ),
            name=call.id,
        )
        for call in calls
    ]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

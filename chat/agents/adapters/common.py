"""What the adapters of frameworks share. Their agents run tools by themselves, so the ledger is told here."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from chat.agents.base import RunContext, ToolRateError
from chat.agents.events import AgentEvent, ToolCall, ToolResult
from chat.agents.loop import as_chat_messages
from chat.agents.tools.base import ToolError

ROOM_SECONDS = 70.0  # a framework cannot be told that a call was not run: it waits until the minute is over
NOT_RUN = "Not run: the worker was lost before this tool began. Call it again if it is still needed."


def history_of(context: RunContext) -> list[dict[str, Any]]:
    """The conversation as the chat-completions API has it; every call has a result."""
    messages = as_chat_messages(context.agent.system_prompt, context.messages, but=context.pending)
    return messages + [{"role": "tool", "tool_call_id": call.id, "content": NOT_RUN} for call in context.pending]


async def begin(context: RunContext) -> AsyncIterator[AgentEvent]:
    """Before a framework's run: the calls that a lost worker had planned are given up, or, when a person has decided,
    those that are allowed are announced to the ledger."""
    if context.agent_state is None:
        for call in context.pending:
            yield ToolResult(call.id, call.tool, NOT_RUN, is_error=True)
        return
    allowed = [call for call in context.pending if (said := context.approvals.get(call.id)) and said.is_approved]
    if allowed:
        await announce(context, allowed)


async def announce(context: RunContext, calls: Sequence[ToolCall]) -> None:
    """Before the framework runs them: count the calls when there is room for them, and tell the ledger."""
    late = await context.tool_rate.take(calls)
    for call in calls:
        if call.id in late:
            try:
                await context.tool_rate.wait(call, seconds=ROOM_SECONDS)
            except ToolError as error:
                raise ToolRateError(str(error)) from None
    await context.ledger.start(calls)


def require(package: str, error: ImportError) -> ImportError:
    return ImportError(f"This adapter needs the package {package}: pip install {package} ({error})")

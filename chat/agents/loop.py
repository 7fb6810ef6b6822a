"""The tool loop that every chat model shares: answer, run the tools that it asks for, answer again."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from chat.agents.base import RunContext, StepLimitError
from chat.agents.events import AgentEvent, ModelAnswer, Text, ToolCall, ToolResult
from chat.agents.tools.base import ToolContext, run_tools
from sessions_app.models import Role
from sessions_app.prompt import PromptMessage

_NO_RESULT = "No result: the run was stopped before the tool answered."


class Model(Protocol):
    """One answer to a conversation: thoughts and text as they come, then a ModelAnswer."""

    def answer(self, context: RunContext, messages: list[dict[str, Any]]) -> AsyncIterator[AgentEvent]: ...


@dataclass
class _Answer:
    text: list[str] = field(default_factory=list)
    tool_calls: tuple[ToolCall, ...] = ()

    def see(self, event: AgentEvent) -> None:
        if isinstance(event, Text):
            self.text.append(event.content)
        elif isinstance(event, ModelAnswer):
            self.tool_calls = event.tool_calls


async def run_tool_loop(model: Model, context: RunContext) -> AsyncIterator[AgentEvent]:
    """Answer until the model asks for no more tools; raises StepLimitError after the agent type's max_steps."""
    messages = as_chat_messages(context.agent.system_prompt, context.messages)
    tool_context = ToolContext(context.session_id, context.run_id)
    for _ in range(context.agent.max_steps):
        answer = _Answer()
        async for event in model.answer(context, messages):
            answer.see(event)
            yield event
        if not answer.tool_calls:
            return
        results = {}
        async for result in run_tools(context.tools, answer.tool_calls, tool_context):
            results[result.id] = result
            yield result
        messages.append(_assistant_message("".join(answer.text), answer.tool_calls))
        messages += [_tool_message(results[call.id]) for call in answer.tool_calls]
    raise StepLimitError(f"The agent did not come to an end within {context.agent.max_steps} answers.")


def as_chat_messages(system_prompt: str, messages: Sequence[PromptMessage]) -> list[dict[str, Any]]:
    """Messages in the form of the chat-completions API. Every tool call gets a result, as that API demands."""
    chat: list[dict[str, Any]] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    results = {message.tool_call_id: message for message in messages if message.role == Role.TOOL}
    for message in messages:
        if message.role == Role.TOOL:
            continue  # stands behind its call
        if message.role != Role.ASSISTANT:
            chat.append({"role": message.role, "content": message.content})
            continue
        calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in message.tool_calls)
        if message.content or calls:
            chat.append(_assistant_message(message.content, calls))
        for call in calls:
            found = results.get(call.id)
            content = found.content if found else _NO_RESULT
            chat.append({"role": "tool", "tool_call_id": call.id, "content": content})
    return chat


def _assistant_message(text: str, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.tool, "arguments": orjson.dumps(call.args).decode()},
            }
            for call in calls
        ]
    return message


def _tool_message(result: ToolResult) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": result.id, "content": result_text(result)}


def result_text(result: ToolResult) -> str:
    """What the model reads of a result: text as it is, other values as JSON."""
    return result.result if isinstance(result.result, str) else orjson.dumps(result.result).decode()

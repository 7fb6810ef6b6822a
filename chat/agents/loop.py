"""The tool loop that every chat model shares: answer, run the tools that it asks for, answer again."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
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
    """Answer until the model asks for no more tools; raises StepLimitError after the agent type's max_steps.

    A run that was taken over goes on where its last checkpoint is: with the tools that have no result yet, or with
    the next answer.
    """
    messages = as_chat_messages(context.agent.system_prompt, context.messages, but=context.pending)
    loop = _Loop(context, messages)
    if context.pending:
        async for result in loop.run_tools(context.pending):
            yield result
    while loop.steps < context.agent.max_steps:
        loop.add_steering(await context.take_steering())
        answer = _Answer()
        loop.steps += 1
        async for event in model.answer(context, messages):
            if isinstance(event, ModelAnswer):
                event = loop.with_unique_ids(event)
            answer.see(event)
            yield event
        messages.append(_assistant_message("".join(answer.text), answer.tool_calls))
        if answer.tool_calls:
            async for result in loop.run_tools(answer.tool_calls):
                yield result
        elif not loop.add_steering(await context.take_steering()):
            return
    raise StepLimitError(f"The agent did not come to an end within {context.agent.max_steps} answers.")


class _Loop:
    """What the steps of one run share: the conversation so far, and the ids of the calls that were made."""

    def __init__(self, context: RunContext, messages: list[dict[str, Any]]) -> None:
        self._context = context
        self._messages = messages
        turn = [message for message in context.messages if message.turn == context.messages[-1].turn]
        self.steps = sum(message.role == Role.ASSISTANT for message in turn)
        self._call_ids = {call["id"] for message in turn for call in message.tool_calls}

    def with_unique_ids(self, answer: ModelAnswer) -> ModelAnswer:
        """Some models number the calls of each answer from 0; within a run an id is one call."""
        calls = []
        for call in answer.tool_calls:
            unique = call.id or "call"
            while unique in self._call_ids:
                unique = f"{call.id or 'call'}-{len(self._call_ids)}"
            self._call_ids.add(unique)
            calls.append(replace(call, id=unique))
        return replace(answer, tool_calls=tuple(calls))

    async def run_tools(self, calls: tuple[ToolCall, ...]) -> AsyncIterator[ToolResult]:
        """Each result as it comes; the model reads them in the order of its calls."""
        context = ToolContext(self._context.session_id, self._context.run_id)
        results = {}
        async for result in run_tools(self._context.tools, calls, context, self._context.ledger):
            results[result.id] = result
            yield result
        self._messages += [_tool_message(results[call.id]) for call in calls]

    def add_steering(self, texts: list[str]) -> bool:
        self._messages += [{"role": "user", "content": text} for text in texts]
        return bool(texts)


def as_chat_messages(
    system_prompt: str, messages: Sequence[PromptMessage], *, but: Sequence[ToolCall] = ()
) -> list[dict[str, Any]]:
    """Messages in the form of the chat-completions API. Every tool call gets a result, as that API demands, but
    those whose results are still to come."""
    awaited = {call.id for call in but}
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
            if found is None and call.id in awaited:
                continue
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

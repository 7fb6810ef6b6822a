"""The tool loop that every chat model shares: answer, run the tools that it asks for, answer again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from chat.agents.base import RunContext, SchemaViolationError, StepLimitError, StepTimeoutError
from chat.agents.events import AgentEvent, ApprovalRequired, ModelAnswer, Text, ToolCall, ToolResult
from chat.agents.tools.base import ToolContext, ToolError
from chat.agents.tools.running import ToolRunner
from chat.context.steps import chat_tokens, shrink
from chat.latency import Technique, is_used
from sessions_app.models import Role
from sessions_app.prompt import PromptMessage

_NO_RESULT = "No result: the run was stopped before the tool answered."


class Model(Protocol):
    """One answer to a conversation: thoughts and text as they come, then a ModelAnswer.

    A ToolCall before that says that one of the calls is complete, and may be started ahead.
    """

    def answer(self, context: RunContext, messages: list[dict[str, Any]]) -> AsyncIterator[AgentEvent]: ...


async def run_tool_loop(model: Model, context: RunContext) -> AsyncIterator[AgentEvent]:
    """Answer until the model asks for no more tools; raises StepLimitError after the agent type's max_steps.

    A run that was taken over goes on where its last checkpoint is: with the tools that have no result yet, or with
    the next answer. Calls that need an approval end it, until a person has decided.
    """
    loop = _Loop(context, as_chat_messages(context.agent.system_prompt, context.messages, but=context.pending))
    try:
        if context.pending:
            async for event in loop.run_tools(context.pending):
                yield event
        while loop.may_go_on:
            loop.add_steering(await context.take_steering())
            async for event in loop.ask(model):
                yield event
            if loop.calls:
                async for event in loop.run_tools(loop.calls):
                    yield event
            elif not loop.add_steering(await context.take_steering()):
                loop.check_answer()
                return
    finally:
        await loop.runner.drop_ahead()
    if not loop.is_parked:
        raise StepLimitError(f"The agent did not come to an end within {context.agent.max_steps} answers.")


class _Loop:
    """What the steps of one run share: the conversation so far, and the ids of the calls that were made.

    `text` and `calls` are of the newest answer.
    """

    def __init__(self, context: RunContext, messages: list[dict[str, Any]]) -> None:
        self._context = context
        self._messages = messages
        self._counted, self._tokens = len(messages), context.prompt_tokens
        self._pinned = _pinned_among(context.messages)
        turn = [message for message in context.messages if message.turn == context.messages[-1].turn]
        earlier = context.messages[: len(context.messages) - len(turn)]
        self._turn = len(as_chat_messages(context.agent.system_prompt, earlier))  # where it begins
        self._steps = sum(message.role == Role.ASSISTANT for message in turn)
        self._call_ids = {call["id"] for message in turn for call in message.tool_calls}
        self.runner = ToolRunner(
            context.tools,
            ToolContext(context.session_id, context.run_id),
            context.ledger,
            rate=context.tool_rate,
            limit=context.agent.max_parallel_tools if is_used(Technique.PARALLEL_TOOLS) else 1,
        )
        self.text = ""
        self.calls: tuple[ToolCall, ...] = ()
        self.is_parked = False

    @property
    def may_go_on(self) -> bool:
        return not self.is_parked and self._steps < self._context.agent.max_steps

    async def ask(self, model: Model) -> AsyncIterator[AgentEvent]:
        """One answer of the model, as it comes; at its end it is part of the conversation."""
        self._steps += 1
        self._fit()
        parts, self.calls = [], ()
        answer, limit = model.answer(self._context, self._messages), self._context.agent.max_step_seconds
        async for event in _in_time(answer, limit) if limit else answer:
            if isinstance(event, Text):
                parts.append(event.content)
            elif isinstance(event, ToolCall):
                self._start_ahead(event)
                continue
            elif isinstance(event, ModelAnswer):
                event = self._with_unique_ids(event)
                self.calls = event.tool_calls
            yield event
        self.text = "".join(parts)
        self._messages.append(_assistant_message(self.text, self.calls))

    def _fit(self) -> None:
        """What the steps have added must not outgrow the model's context."""
        limit = self._context.max_prompt_tokens
        if not limit or self._counted == len(self._messages):
            return
        self._tokens += sum(chat_tokens(message) for message in self._messages[self._counted :])
        if self._tokens > limit:
            length = len(self._messages)
            excess = self._tokens - limit
            self._messages, saved = shrink(self._messages, excess, turn=self._turn, pinned=self._pinned)
            self._turn -= length - len(self._messages)
            self._tokens -= saved
        self._counted = len(self._messages)

    def _with_unique_ids(self, answer: ModelAnswer) -> ModelAnswer:
        calls = []
        for call in answer.tool_calls:
            calls.append(self._with_unique_id(call))
            self._call_ids.add(calls[-1].id)
        return replace(answer, tool_calls=tuple(calls))

    def _with_unique_id(self, call: ToolCall) -> ToolCall:
        """Some models number the calls of each answer from 0; within a run an id is one call."""
        unique, number = call.id or "call", self._steps
        while unique in self._call_ids:
            unique, number = f"{call.id or 'call'}-{number}", number + 1
        return replace(call, id=unique)

    def _start_ahead(self, call: ToolCall) -> None:
        if call.tool in self._context.agent.eager_tools and not self._context.needs_approval(call):
            self.runner.start_ahead(self._with_unique_id(call))

    async def run_tools(self, calls: Sequence[ToolCall]) -> AsyncIterator[AgentEvent]:
        """Each result as it comes; the model reads them in the order of its calls. Those that need an approval
        are asked about when all others are done."""
        waiting = tuple(call for call in calls if self._context.needs_approval(call) and self._fits(call))
        free = [call for call in calls if call not in waiting]
        results = {}
        async for result in self.runner.run(free):
            results[result.id] = result
            yield result
        self._messages += [_tool_message(results[call.id]) for call in free]
        if waiting:
            self.is_parked = True
            yield ApprovalRequired(waiting)

    def _fits(self, call: ToolCall) -> bool:
        """Nobody is asked about a call that cannot run."""
        try:
            self._context.tools[call.tool].read(call.args)
        except ToolError:
            return False
        return True

    def add_steering(self, texts: list[str]) -> bool:
        self._messages += [{"role": "user", "content": text} for text in texts]
        return bool(texts)

    def check_answer(self) -> None:
        """Raises SchemaViolationError if the final answer is not what the agent type's schema says."""
        schema = self._context.agent.response_schema
        if schema is None:
            return
        try:
            answer = orjson.loads(self.text)
        except orjson.JSONDecodeError:
            raise SchemaViolationError("The answer is not JSON, as the response schema demands.") from None
        error = best_match(Draft202012Validator(schema).iter_errors(answer))
        if error is not None:
            raise SchemaViolationError(f"The answer does not fit the response schema: {error.message[:500]}")


async def _in_time(answer: AsyncIterator[AgentEvent], seconds: int) -> AsyncIterator[AgentEvent]:
    """The answer as it comes; if it takes longer, the request to the model is closed and StepTimeoutError raised."""
    until = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            # Around each wait, not around the whole: a generator must not be left inside of a time limit.
            async with asyncio.timeout_at(until) as timer:
                event = await anext(answer)
        except StopAsyncIteration:
            return
        except TimeoutError:
            if not timer.expired():
                raise
            raise StepTimeoutError(f"An answer of the model took longer than {seconds} seconds.") from None
        yield event


def _pinned_among(messages: Sequence[PromptMessage]) -> set[str]:
    """What tells pinned messages from others: their texts, and the ids of their tool calls."""
    pinned = [message for message in messages if message.is_pinned]
    calls = {call["id"] for message in pinned for call in message.tool_calls}
    return ({message.content for message in pinned} | {message.tool_call_id for message in pinned} | calls) - {""}


def as_chat_messages(
    system_prompt: str, messages: Sequence[PromptMessage], *, but: Sequence[ToolCall] = ()
) -> list[dict[str, Any]]:
    """Messages in the form of the chat-completions API. Every tool call gets a result, as that API demands, but
    those whose results are still to come."""
    awaited = {call.id for call in but}
    chat: list[dict[str, Any]] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    # Models number their calls anew in each answer: a call's result is one of its own turn.
    results = {(message.turn, message.tool_call_id): message for message in messages if message.role == Role.TOOL}
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
            found = results.get((message.turn, call.id))
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
                "function": {"name": call.tool, "arguments": _arguments(call.args)},
            }
            for call in calls
        ]
    return message


def _arguments(args: dict[str, Any]) -> str:
    """Sorted, since Postgres does not keep the order of keys: the prompt is the same before and after a reload."""
    return orjson.dumps(args, option=orjson.OPT_SORT_KEYS).decode()


def _tool_message(result: ToolResult) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": result.id, "content": result_text(result)}


def result_text(result: ToolResult) -> str:
    """What the model reads of a result: text as it is, other values as JSON."""
    return result.result if isinstance(result.result, str) else orjson.dumps(result.result).decode()

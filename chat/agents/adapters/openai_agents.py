"""Agents of the OpenAI Agents SDK."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson

from chat.agents.adapters.common import announce, begin, history_of, require
from chat.agents.base import RunContext, StepLimitError
from chat.agents.events import (
    AgentEvent,
    ApprovalRequired,
    ModelAnswer,
    Text,
    Thought,
    ToolCall,
    ToolResult,
    read_arguments,
)
from sessions_app.services.recording import Usage

try:
    from agents import Agent, RunConfig, RunContextWrapper, RunHooks, Runner, RunState
    from agents.exceptions import MaxTurnsExceeded
except ImportError as error:
    raise require("openai-agents", error) from error

_THOUGHTS = frozenset({"response.reasoning_text.delta", "response.reasoning_summary_text.delta"})
_TEXTS = frozenset({"response.output_text.delta", "response.refusal.delta"})


class OpenAIAgentsAgent:
    """Serves an agent of the SDK; its tools find the RunContext as `context.context`.

    Tools with `needs_approval` park the run. Tracing, which sends conversations to OpenAI, is off unless asked for.
    """

    def __init__(self, agent: "Agent[Any]", *, run_config: "RunConfig | None" = None) -> None:
        self._agent = agent
        self._run_config = run_config or RunConfig(tracing_disabled=True)

    async def stream(self, context: RunContext) -> AsyncIterator[AgentEvent]:
        async for event in begin(context):
            yield event
        gate = _Gate(context)
        result = Runner.run_streamed(
            self._agent,
            await self._start(context),
            context=context,
            max_turns=context.agent.max_steps,
            hooks=gate,
            run_config=self._run_config,
        )
        try:
            async for event_ in result.stream_events():
                for event in gate.take(event_):
                    yield event
                await gate.let_go()
        except MaxTurnsExceeded as error:
            raise StepLimitError(str(error)) from error
        finally:
            result.cancel()
        if result.interruptions:
            state = orjson.loads(orjson.dumps(result.to_state().to_json(), default=str))
            yield ApprovalRequired(tuple(_call(item.raw_item) for item in result.interruptions), state)

    async def _start(self, context: RunContext) -> Any:
        if context.agent_state is None:
            return [item for message in history_of(context) for item in _items(message)]
        edited = {call_id: said.args for call_id, said in context.approvals.items() if said.is_approved}
        saved = _with_arguments(context.agent_state, edited)
        for call_id in edited:
            saved["context"]["tool_invocations"].pop(call_id, None)  # a fingerprint of the old arguments
        state = await RunState.from_json(self._agent, saved, context_override=RunContextWrapper(context))
        for item in state.get_interruptions():
            said = context.approvals[_field(item.raw_item, "call_id")]
            if said.is_approved:
                state.approve(item)
            else:
                state.reject(item, rejection_message=said.reason)
        return state


class _Gate(RunHooks[Any]):
    """The SDK runs ahead of whoever reads its events: no tool starts before its call is on record."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._known = {call.id for call in context.pending}
        self._told = {message.tool_call_id for message in context.messages if message.tool_call_id}
        self._new: list[ToolCall] = []
        self._on_record: dict[str, asyncio.Event] = {}
        self._names: dict[str, str] = {call.id: call.tool for call in context.pending}

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        call_id = getattr(context, "tool_call_id", "")
        if call_id and call_id not in self._known:
            await self._event(call_id).wait()

    def take(self, event: Any) -> list[AgentEvent]:
        if event.type == "raw_response_event":
            return self._take_raw(event.data)
        if event.type == "run_item_stream_event" and event.name == "tool_output":
            return self._result(event.item)
        return []

    def _take_raw(self, data: Any) -> list[AgentEvent]:
        if data.type in _TEXTS:
            return [Text(data.delta)]
        if data.type in _THOUGHTS:
            return [Thought(data.delta)]
        if data.type not in ("response.completed", "response.incomplete"):
            return []
        calls = [_call(item) for item in data.response.output if item.type == "function_call"]
        self._new += calls
        self._names.update({call.id: call.tool for call in calls})
        return [ModelAnswer(tuple(calls), _usage(data.response))]

    async def let_go(self) -> None:
        """What was told of is on record now: its tools may start."""
        new, self._new = self._new, []
        if new:
            await announce(self._context, new)
        for call in new:
            self._known.add(call.id)
            self._event(call.id).set()

    def _event(self, call_id: str) -> asyncio.Event:
        return self._on_record.setdefault(call_id, asyncio.Event())

    def _result(self, item: Any) -> list[AgentEvent]:
        call_id = _field(item.raw_item, "call_id")
        if call_id in self._told:
            return []
        self._told.add(call_id)
        output = item.output if isinstance(item.output, str | int | float | bool | dict | list) else str(item.output)
        said = self._context.approvals.get(call_id)
        is_error = said is not None and not said.is_approved
        return [ToolResult(call_id, self._names.get(call_id, ""), output, is_error)]


def _items(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message of the chat-completions API as items of the Responses API, which the SDK speaks."""
    if message["role"] == "tool":
        return [
            {"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]},
        ]
    text = [{"role": message["role"], "content": message["content"]}] if message["content"] else []
    calls = [
        {
            "type": "function_call",
            "call_id": call["id"],
            "name": call["function"]["name"],
            "arguments": call["function"]["arguments"],
        }
        for call in message.get("tool_calls", ())
    ]
    return [*text, *calls]


def _call(item: Any) -> ToolCall:
    return ToolCall(_field(item, "call_id"), _field(item, "name"), read_arguments(_field(item, "arguments")))


def _field(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else getattr(item, name, None)


def _usage(response: Any) -> Usage | None:
    usage = response.usage
    if usage is None:
        return None
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=getattr(usage.input_tokens_details, "cached_tokens", 0) or 0,
        reasoning_tokens=getattr(usage.output_tokens_details, "reasoning_tokens", 0) or 0,
        model=str(response.model or ""),
    )


def _with_arguments(saved: Any, edited: dict[str, dict[str, Any]]) -> Any:
    """The saved state with the arguments that a person has changed: the SDK itself can only say yes or no."""
    if isinstance(saved, list):
        return [_with_arguments(each, edited) for each in saved]
    if not isinstance(saved, dict):
        return saved
    changed = {key: _with_arguments(value, edited) for key, value in saved.items()}
    if changed.get("call_id") in edited and isinstance(changed.get("arguments"), str):
        changed["arguments"] = orjson.dumps(edited[changed["call_id"]]).decode()
    return changed

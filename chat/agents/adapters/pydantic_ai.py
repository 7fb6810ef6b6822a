"""Agents of pydantic-ai, and with them the models of Anthropic, Google, Bedrock and the rest."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from pydantic_core import to_jsonable_python

from chat.agents.adapters.common import announce, begin, history_of, require
from chat.agents.base import RunContext
from chat.agents.events import MALFORMED, AgentEvent, ApprovalRequired, ModelAnswer, Text, Thought, ToolCall, ToolResult
from sessions_app.services.recording import Usage

try:
    from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied
    from pydantic_ai.messages import (
        FunctionToolResultEvent,
        ModelMessage,
        ModelMessagesTypeAdapter,
        ModelRequest,
        ModelResponse,
        PartDeltaEvent,
        PartStartEvent,
        RetryPromptPart,
        SystemPromptPart,
        TextPart,
        TextPartDelta,
        ThinkingPart,
        ThinkingPartDelta,
        ToolCallPart,
        ToolReturnPart,
        UserPromptPart,
    )
except ImportError as error:
    raise require("pydantic-ai-slim", error) from error


class PydanticAIAgent:
    """Serves a pydantic-ai Agent. Its tools get as `deps` what `deps(context)` gives, by default the RunContext.

    Tools with `requires_approval` park the run. An output that is not text is told as JSON.
    """

    def __init__(
        self, agent: "Agent[Any, Any]", *, deps: Callable[[RunContext], Any] = lambda context: context
    ) -> None:
        self._agent = agent
        self._deps = deps

    async def stream(self, context: RunContext) -> AsyncIterator[AgentEvent]:
        async for event in begin(context):
            yield event
        output_type: Any = [self._agent.output_type, DeferredToolRequests]
        is_known = context.agent_state is not None  # the answer that asked for the approval is on record
        async with self._agent.iter(**_start(context), deps=self._deps(context), output_type=output_type) as run:
            async for node in run:
                if Agent.is_model_request_node(node):
                    async with node.stream(run.ctx) as parts:
                        async for part in parts:
                            if delta := _delta(part):
                                yield delta
                elif Agent.is_call_tools_node(node):
                    if not is_known:
                        calls = self._calls(node.model_response)
                        yield ModelAnswer(calls, _usage(node.model_response), node.model_response.finish_reason or "")
                        if calls:
                            await announce(context, calls)
                    is_known = False
                    async with node.stream(run.ctx) as tools:
                        async for event_ in tools:
                            if isinstance(event_, FunctionToolResultEvent):
                                yield _result(event_.part)
        assert run.result is not None  # the loop above went through to the end
        yield _end(run.result)

    def _calls(self, response: "ModelResponse") -> tuple[ToolCall, ...]:
        """Those of functions; a call that carries the structured output is not a tool's."""
        own = {name for toolset in self._agent.toolsets for name in getattr(toolset, "tools", {})}
        output = {"final_result"} - own
        return tuple(_call(part) for part in response.tool_calls if part.tool_name not in output)


def _start(context: RunContext) -> dict[str, Any]:
    if context.agent_state is None:
        return {"message_history": _history(context)}
    results = DeferredToolResults(
        approvals={
            call_id: ToolApproved(override_args=said.args) if said.is_approved else ToolDenied(said.reason)
            for call_id, said in context.approvals.items()
        }
    )
    history = ModelMessagesTypeAdapter.validate_python(context.agent_state)
    return {"message_history": history, "deferred_tool_results": results}


def _history(context: RunContext) -> "list[ModelMessage]":
    history: list[ModelMessage] = []
    names: dict[str, str] = {}
    for message in history_of(context):
        if message["role"] == "assistant":
            calls = [call["function"] | {"id": call["id"]} for call in message.get("tool_calls", ())]
            names.update({call["id"]: call["name"] for call in calls})
            parts = [ToolCallPart(call["name"], call["arguments"], call["id"]) for call in calls]
            text = [TextPart(message["content"])] if message["content"] else []
            history.append(ModelResponse(parts=[*text, *parts]))
            continue
        part: Any
        if message["role"] == "tool":
            call_id = message["tool_call_id"]
            part = ToolReturnPart(names[call_id], message["content"], call_id)
        else:
            kind = SystemPromptPart if message["role"] == "system" else UserPromptPart
            part = kind(message["content"])
        if history and isinstance(history[-1], ModelRequest):
            history[-1] = ModelRequest(parts=[*history[-1].parts, part])
        else:
            history.append(ModelRequest(parts=[part]))
    return history


def _delta(part: Any) -> AgentEvent | None:
    piece = part.part if isinstance(part, PartStartEvent) else part.delta if isinstance(part, PartDeltaEvent) else None
    if isinstance(piece, TextPart):
        return Text(piece.content)
    if isinstance(piece, TextPartDelta):
        return Text(piece.content_delta)
    if isinstance(piece, ThinkingPart):
        return Thought(piece.content)
    if isinstance(piece, ThinkingPartDelta) and piece.content_delta:
        return Thought(piece.content_delta)
    return None


def _call(part: "ToolCallPart") -> ToolCall:
    try:
        return ToolCall(part.tool_call_id, part.tool_name, part.args_as_dict())
    except (ValueError, AssertionError):
        return ToolCall(part.tool_call_id, part.tool_name, {MALFORMED: str(part.args)})


def _result(part: "ToolReturnPart | RetryPromptPart") -> ToolResult:
    if isinstance(part, RetryPromptPart):
        return ToolResult(part.tool_call_id, part.tool_name or "", part.model_response(), is_error=True)
    is_error = part.outcome != "success"
    return ToolResult(part.tool_call_id, part.tool_name, to_jsonable_python(part.content), is_error)


def _usage(response: "ModelResponse") -> Usage:
    return Usage(
        input_tokens=response.usage.input_tokens,
        output_tokens=response.usage.output_tokens,
        cached_tokens=response.usage.cache_read_tokens,
        reasoning_tokens=response.usage.details.get("reasoning_tokens", 0),
        model=response.model_name or "",
    )


def _end(result: Any) -> AgentEvent:
    if isinstance(result.output, DeferredToolRequests):
        state = orjson.loads(ModelMessagesTypeAdapter.dump_json(result.all_messages()))
        return ApprovalRequired(tuple(_call(call) for call in result.output.approvals), state)
    text = "" if isinstance(result.output, str) else orjson.dumps(to_jsonable_python(result.output)).decode()
    return Text(text)

"""Compiled graphs of LangGraph."""

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

from chat.agents.adapters.common import announce, begin, history_of, require
from chat.agents.base import Approval, RunContext
from chat.agents.events import AgentEvent, ApprovalRequired, ModelAnswer, Text, Thought, ToolCall, ToolResult
from sessions_app.services.recording import Usage

try:
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
    from langchain_core.messages.utils import convert_to_messages
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.types import Command, Interrupt
except ImportError as error:
    raise require("langgraph", error) from error


def messages_input(context: RunContext) -> dict[str, Any]:
    """What a graph over messages begins with: the whole conversation."""
    return {"messages": convert_to_messages(history_of(context))}


class LangGraphAgent:
    """Serves a compiled graph; `input(context)` is what it begins with.

    `interrupt(...)` parks the run. An object with `tool_call_id` asks about that call, one with `action_requests`
    (LangChain's human-in-the-loop middleware) about each of them, anything else about a call of its own. `interrupt`
    returns `{"approved", "args", "reason"}`, to the middleware its decisions.
    """

    def __init__(self, graph: Any, *, input: Callable[[RunContext], Any] = messages_input) -> None:
        self._graph = graph
        self._input = input

    async def stream(self, context: RunContext) -> AsyncIterator[AgentEvent]:
        async for event in begin(context):
            yield event
        saver, start = InMemorySaver(), None
        if context.agent_state is None:
            start = self._input(context)
        else:
            _restore(saver, context.agent_state["checkpoints"])
            start = Command(resume=_answers(context))
            for result in _own_results(context):
                yield result
        graph = self._graph.copy(update={"checkpointer": saver})
        config: Any = {
            "configurable": {"thread_id": str(context.run_id), "agentsite": context},
            "recursion_limit": 2 * context.agent.max_steps + 1,
        }
        reader = _Reader(context)
        # Until the next event is asked for, the graph's next step does not begin.
        async for mode, data in graph.astream(start, config, stream_mode=["messages", "updates"]):
            async for event in reader.take(mode, data):
                yield event
        if questions := reader.questions():
            state = {"checkpoints": _dump(saver), "questions": [question.as_json() for question in questions]}
            yield ApprovalRequired(tuple(call for question in questions for call in question.calls), state)


_OWN = "interrupt-"  # begins the ids of calls that stand for a question alone: no tool will answer them


class _Question:
    """An interrupt, and the calls that it asks about. `is_middleware`: it wants a list of decisions."""

    def __init__(self, interrupt_id: str, calls: list[ToolCall], *, is_middleware: bool) -> None:
        self.interrupt_id = interrupt_id
        self.calls = calls
        self.is_middleware = is_middleware

    def as_json(self) -> dict[str, Any]:
        return {
            "interrupt_id": self.interrupt_id,
            "calls": [{"id": call.id, "tool": call.tool, "args": call.args} for call in self.calls],
            "is_middleware": self.is_middleware,
        }


class _Reader:
    """Turns what a graph streams into our events."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._told = {message.tool_call_id for message in context.messages if message.tool_call_id}
        self._calls: dict[str, ToolCall] = {call.id: call for call in context.pending}
        self._interrupts: list[Interrupt] = []

    async def take(self, mode: str, data: Any) -> AsyncIterator[AgentEvent]:
        if mode == "messages":
            for event in _deltas(data[0]):
                yield event
            return
        self._interrupts += data.get("__interrupt__", ())
        for update in data.values():
            for message in _messages_of(update):
                if isinstance(message, AIMessage):
                    calls = tuple(ToolCall(call["id"] or "", call["name"], call["args"]) for call in message.tool_calls)
                    self._calls.update({call.id: call for call in calls})
                    yield ModelAnswer(calls, _usage(message), message.response_metadata.get("finish_reason") or "")
                    if calls:
                        await announce(self._context, calls)
                elif isinstance(message, ToolMessage) and message.tool_call_id not in self._told:
                    self._told.add(message.tool_call_id)
                    tool = message.name or self._calls.get(message.tool_call_id, ToolCall("", "")).tool
                    yield ToolResult(message.tool_call_id, tool, message.content, message.status == "error")

    def questions(self) -> list[_Question]:
        """What the graph waits for, at its end; to be asked once."""
        return [self._question(interrupt) for interrupt in self._interrupts]

    def _question(self, interrupt: "Interrupt") -> _Question:
        value = interrupt.value if isinstance(interrupt.value, dict) else {"question": interrupt.value}
        if requests := value.get("action_requests"):
            calls = [self._find(request, f"{interrupt.id}-{number}") for number, request in enumerate(requests, 1)]
            return _Question(interrupt.id, calls, is_middleware=True)
        call = self._calls.get(value.get("tool_call_id", ""))
        if call is None:
            call = ToolCall(f"{_OWN}{interrupt.id}", str(value.get("tool", "interrupt")), value)
        return _Question(interrupt.id, [call], is_middleware=False)

    def _find(self, request: dict[str, Any], place: str) -> ToolCall:
        """The model's call that the middleware asks about: it names no id."""
        args = request.get("args", request.get("arguments", {}))
        for call in reversed(self._calls.values()):
            if call.tool == request["name"] and call.args == args and call.id not in self._told:
                self._told.add(call.id)
                return call
        return ToolCall(f"{_OWN}{place}", request["name"], args)


def _answers(context: RunContext) -> dict[str, Any]:
    """What each interrupt returns in the graph."""
    answers: dict[str, Any] = {}
    for question in context.agent_state["questions"]:
        said = [(call, context.approvals[call["id"]]) for call in question["calls"]]
        if question["is_middleware"]:
            answers[question["interrupt_id"]] = {"decisions": [_decision(call, each) for call, each in said]}
        else:
            answers[question["interrupt_id"]] = _as_answer(said[0][1])
    return answers


def _own_results(context: RunContext) -> list[ToolResult]:
    """The answers to questions that were no tool's call are their results."""
    calls = [call for question in context.agent_state["questions"] for call in question["calls"]]
    own = [(call, context.approvals[call["id"]]) for call in calls if call["id"].startswith(_OWN)]
    return [ToolResult(call["id"], call["tool"], _as_answer(said), not said.is_approved) for call, said in own]


def _as_answer(said: Approval) -> dict[str, Any]:
    return {"approved": said.is_approved, "args": said.args, "reason": said.reason}


def _decision(call: dict[str, Any], said: Approval) -> dict[str, Any]:
    if not said.is_approved:
        return {"type": "reject", "message": said.reason}
    if said.args != call["args"]:
        return {"type": "edit", "edited_action": {"name": call["tool"], "args": said.args}}
    return {"type": "approve"}


def _messages_of(update: Any) -> "list[BaseMessage]":
    messages = update.get("messages", ()) if isinstance(update, dict) else ()
    return list(messages) if isinstance(messages, list | tuple) else [messages]


def _deltas(message: Any) -> list[AgentEvent]:
    """A piece of an answer, or a whole one of a model that does not stream."""
    if not isinstance(message, AIMessage | AIMessageChunk):
        return []
    found: list[AgentEvent] = []
    if thought := message.additional_kwargs.get("reasoning_content"):
        found.append(Thought(str(thought)))
    if isinstance(message.content, str):
        return [*found, Text(message.content)] if message.content else found
    for block in message.content:
        if isinstance(block, str):
            found.append(Text(block))
        elif block.get("type") == "text" and block.get("text"):
            found.append(Text(block["text"]))
        elif thought := block.get("thinking") or block.get("reasoning"):
            found.append(Thought(str(thought)))
    return found


def _usage(message: "AIMessage") -> Usage | None:
    usage = message.usage_metadata
    if usage is None:
        return None
    return Usage(
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        cached_tokens=usage.get("input_token_details", {}).get("cache_read") or 0,
        reasoning_tokens=usage.get("output_token_details", {}).get("reasoning") or 0,
        model=str(message.response_metadata.get("model_name", "")),
    )


# --- the graph's state between two workers: what LangGraph's own saver in memory holds, as JSON ---------------------


def _dump(saver: "InMemorySaver") -> dict[str, Any]:
    storage = {
        thread: {space: dict(checkpoints) for space, checkpoints in spaces.items()}
        for thread, spaces in saver.storage.items()
    }
    tables = {"storage": storage, "writes": dict(saver.writes), "blobs": dict(saver.blobs)}
    kind, data = saver.serde.dumps_typed(tables)
    return {"kind": kind, "data": b64encode(data).decode()}


def _restore(saver: "InMemorySaver", dumped: dict[str, Any]) -> None:
    tables = saver.serde.loads_typed((dumped["kind"], b64decode(dumped["data"])))
    for thread, spaces in tables["storage"].items():
        for space, checkpoints in spaces.items():
            saver.storage[thread][space].update({key: tuple(value) for key, value in checkpoints.items()})
    saver.writes.update(tables["writes"])
    saver.blobs.update(tables["blobs"])

"""What LangGraph streams, in the shapes of the many chat models of LangChain."""

import asyncio
import uuid
from typing import Any

import pytest
from django.utils import timezone
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from chat.agents.adapters.langgraph import LangGraphAgent, _deltas
from chat.agents.base import Approval, RunContext
from chat.agents.events import AgentEvent, ApprovalRequired, ModelAnswer, Text, Thought, ToolResult
from sessions_app.agent_config import AgentConfig
from sessions_app.prompt import PromptMessage

RUN = uuid.uuid4()


def context(**fields: Any) -> RunContext:
    message = PromptMessage(0, 1, 0, "user", "Hi", (), "", 1, timezone.now())
    return RunContext(RUN, uuid.uuid4(), AgentConfig("a"), "Hi", [message], **fields)


def run(agent: LangGraphAgent, **fields: Any) -> list[AgentEvent]:
    async def collect() -> list[AgentEvent]:
        return [event async for event in agent.stream(context(**fields))]

    return asyncio.run(collect())


@pytest.mark.parametrize(
    ("chunk", "events"),
    [
        (AIMessageChunk(content="Hello"), [Text("Hello")]),
        (AIMessageChunk(content="", additional_kwargs={"reasoning_content": "Hm."}), [Thought("Hm.")]),
        (AIMessageChunk(content=[{"type": "thinking", "thinking": "Hm."}]), [Thought("Hm.")]),
        (AIMessageChunk(content=[{"type": "reasoning", "reasoning": "Hm."}]), [Thought("Hm.")]),
        (AIMessageChunk(content=["So ", {"type": "text", "text": "it is."}]), [Text("So "), Text("it is.")]),
        (AIMessageChunk(content=[{"type": "tool_use", "id": "x", "input": {}}]), []),
    ],
)
def test_a_piece_is_a_thought_or_a_text(chunk: AIMessageChunk, events: list[AgentEvent]) -> None:
    assert _deltas(chunk) == events


def test_a_model_that_does_not_stream_is_told_once() -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("Hello there")]))

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    events = run(LangGraphAgent(graph.compile()))
    assert "".join(event.content for event in events if isinstance(event, Text)) == "Hello there"
    assert isinstance(events[-1], ModelAnswer)


def graph_that_asks(asked: Any) -> LangGraphAgent:
    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(str(interrupt(asked)))]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    return LangGraphAgent(graph.compile())


@pytest.mark.parametrize(("asked", "args"), [("May I?", {"question": "May I?"}), ({"x": 1}, {"x": 1})])
def test_any_interrupt_is_a_question_of_its_own(asked: Any, args: dict[str, Any]) -> None:
    agent = graph_that_asks(asked)
    (question,) = run(agent)
    assert isinstance(question, ApprovalRequired)
    (call,) = question.calls
    assert call.args == args
    said = {call.id: Approval(True, {"y": 2})}
    events = run(agent, agent_state=question.state, approvals=said, pending=(call,))
    assert [event.id for event in events if isinstance(event, ToolResult)] == [call.id]
    text = "".join(event.content for event in events if isinstance(event, Text))
    assert text == str({"approved": True, "args": {"y": 2}, "reason": ""})


def test_the_middleware_gets_its_decisions() -> None:
    requests = [{"name": "pay", "args": {"n": 1}}, {"name": "pay", "args": {"n": 2}}, {"name": "mail", "args": {}}]
    agent = graph_that_asks({"action_requests": requests, "review_configs": []})
    (question,) = run(agent)
    assert isinstance(question, ApprovalRequired)
    assert [(call.tool, call.args) for call in question.calls] == [("pay", {"n": 1}), ("pay", {"n": 2}), ("mail", {})]
    first, second, third = question.calls
    assert len({call.id for call in question.calls}) == 3
    said = {first.id: Approval(True, {"n": 1}), second.id: Approval(True, {"n": 3})}
    said[third.id] = Approval(False, {}, "no")
    events = run(agent, agent_state=question.state, approvals=said, pending=question.calls)
    text = "".join(event.content for event in events if isinstance(event, Text))
    assert text == str(
        {
            "decisions": [
                {"type": "approve"},
                {"type": "edit", "edited_action": {"name": "pay", "args": {"n": 3}}},
                {"type": "reject", "message": "no"},
            ]
        }
    )


def test_the_middlewares_questions_are_about_the_models_own_calls() -> None:
    calls: Any = [{"name": "pay", "args": {"n": n}, "id": f"c{n}", "type": "tool_call"} for n in (1, 2)]
    requests = [{"name": "pay", "args": {"n": n}} for n in (1, 2)]

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("", tool_calls=calls)]}

    async def ask(state: MessagesState) -> dict[str, Any]:
        decided = interrupt({"action_requests": requests})["decisions"]
        return {"messages": [ToolMessage(str(each["type"]), tool_call_id=f"c{n}") for n, each in enumerate(decided, 1)]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_node("ask", ask)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", "ask")
    agent = LangGraphAgent(graph.compile())
    question = run(agent)[-1]
    assert isinstance(question, ApprovalRequired)
    assert [call.id for call in question.calls] == ["c1", "c2"]
    said = {"c1": Approval(True, {"n": 1}), "c2": Approval(False, {"n": 2}, "no")}
    events = run(agent, agent_state=question.state, approvals=said, pending=question.calls)
    results = [(each.id, each.result) for each in events if isinstance(each, ToolResult)]
    assert results == [("c1", "approve"), ("c2", "reject")]

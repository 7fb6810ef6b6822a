"""The tool loop: it goes on where an earlier worker stopped, and announces what must not be repeated."""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from django.utils import timezone

from chat.agents.base import RunContext
from chat.agents.events import AgentEvent, ModelAnswer, Text, ToolCall, ToolResult
from chat.agents.loop import run_tool_loop
from chat.agents.tools.base import NoLedger, Tool, ToolContext
from chat.agents.tools.running import ToolRunner
from sessions_app.agent_config import AgentConfig
from sessions_app.prompt import PromptMessage

CONTEXT = ToolContext(uuid.uuid4(), uuid.uuid4())


class Book:
    """A ledger that notes what is announced, among what the tools do."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def start(self, calls: Sequence[ToolCall]) -> None:
        self.lines.append(f"announced {[call.id for call in calls]}")

    def key_of(self, call_id: str) -> str:
        return f"key of {call_id}"


class Script:
    """A model that gives these answers, and remembers what it was asked."""

    def __init__(self, *answers: ModelAnswer) -> None:
        self.answers = list(answers)
        self.asked: list[list[dict[str, Any]]] = []

    async def answer(self, context: RunContext, messages: list[dict[str, Any]]) -> AsyncIterator[AgentEvent]:
        self.asked.append(list(messages))
        yield Text("said ")
        yield self.answers.pop(0)


def tools_of(book: Book) -> dict[str, Tool]:
    async def act(context: ToolContext) -> str:
        book.lines.append(f"ran {context.call_id} with {context.idempotency_key}")
        return "acted"

    return {"pay": Tool("pay", "", {}, act), "look": Tool("look", "", {}, act, is_idempotent=True)}


def message(position: int, role: str, content: str = "", **fields: Any) -> PromptMessage:
    empty: dict[str, Any] = {"tool_calls": (), "tool_call_id": "", "token_count": 1, "created_at": timezone.now()}
    return PromptMessage(
        id=position,
        turn=1,
        position=position,
        role=role,
        content=content,
        **{
            **empty,
            **fields,
        },
    )


def run(model: Script, book: Book, *messages: PromptMessage, **context: Any) -> list[AgentEvent]:
    run_context = RunContext(
        run_id=uuid.uuid4(),
        session_id=uuid.uuid4(),
        agent=AgentConfig("a", max_steps=3),
        message="hi",
        messages=[message(0, "user", "hi"), *messages],
        tools=tools_of(book),
        ledger=book,
        **context,
    )

    async def all_of_it() -> list[AgentEvent]:
        return [event async for event in run_tool_loop(model, run_context)]

    return asyncio.run(all_of_it())


def test_what_must_not_be_repeated_is_announced_before_it_starts() -> None:
    book = Book()
    calls = (ToolCall("1", "look"), ToolCall("2", "pay"))
    run(Script(ModelAnswer(calls), ModelAnswer()), book)
    assert book.lines[0] == "announced ['2']"
    assert sorted(book.lines[1:]) == ["ran 1 with key of 1", "ran 2 with key of 2"]


def test_a_turn_that_was_taken_over_goes_on_with_its_open_calls() -> None:
    book, model = Book(), Script(ModelAnswer())
    called = [{"id": "1", "name": "look", "arguments": {}}, {"id": "2", "name": "pay", "arguments": {}}]
    done = [message(1, "assistant", "first", tool_calls=called), message(2, "tool", "looked", tool_call_id="1")]
    events = run(model, book, *done, pending=(ToolCall("2", "pay"),))
    assert isinstance(events[0], ToolResult)
    assert book.lines == ["announced ['2']", "ran 2 with key of 2"]
    results = [(asked["tool_call_id"], asked["content"]) for asked in model.asked[0] if asked["role"] == "tool"]
    assert results == [("1", "looked"), ("2", "acted")]


def test_a_call_id_is_used_once_in_a_run() -> None:
    book = Book()
    same = ModelAnswer((ToolCall("call_0", "pay"),))
    events = run(Script(same, same, ModelAnswer()), book)
    ids = [event.id for event in events if isinstance(event, ToolResult)]
    assert ids[0] == "call_0"
    assert len(set(ids)) == 2


def test_steering_comes_between_two_steps() -> None:
    waiting = [["stop that"], []]

    async def take_steering() -> list[str]:
        return waiting.pop(0) if waiting else []

    model = Script(ModelAnswer())
    run(model, Book(), take_steering=take_steering)
    assert model.asked[0][-1] == {"role": "user", "content": "stop that"}


def test_a_cancel_waits_for_a_tool_that_cannot_be_stopped() -> None:
    """A thread goes on whatever one does: `cancelled` may be said only when it has ended."""
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work(context: ToolContext) -> None:
        began.set()
        may_end.wait(10.0)
        ended.set()

    async def cancel_it() -> None:
        async def use() -> None:
            runner = ToolRunner({"t": Tool("t", "", {}, work)}, CONTEXT, NoLedger())
            async for _ in runner.run([ToolCall("c", "t")]):
                pass

        task = asyncio.create_task(use())
        await asyncio.to_thread(began.wait, 10.0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=0.05)
        assert not done
        may_end.set()
        await asyncio.wait({task}, timeout=10.0)
        assert task.cancelled()
        assert ended.is_set()

    asyncio.run(cancel_it())

"""A session's tool calls a minute: one too many waits, then the model is told that it was not run."""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from django.conf import settings as django_settings
from redis import Redis

from chat.agents.adapters import common
from chat.agents.adapters.common import announce
from chat.agents.base import RunContext, ToolRateError
from chat.agents.events import ToolCall, ToolResult
from chat.agents.tools.base import NoLedger, Tool, ToolContext
from chat.agents.tools.rate import SessionToolRate
from chat.agents.tools.running import ToolRunner
from chat.stream.redis import client
from monitoring.rates import PREFIX
from sessions_app.agent_config import AgentConfig
from sessions_app.redis import sync_client
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site

R = TypeVar("R")
LIMIT = django_settings.MAX_TOOL_CALLS_PER_MINUTE
pytestmark = pytest.mark.django_db


def key_of(session_id: Any) -> str:
    return f"{PREFIX}tools:{session_id}"


def use_up(session_id: Any, *, but: int = 0, seconds_left: float = 60.0, redis: Redis | None = None) -> None:
    """As if calls had been made: there is room again in `seconds_left`."""
    redis = redis or sync_client()
    seconds, micro = redis.time()
    at = seconds * 1_000_000 + micro - int((60 - seconds_left) * 1_000_000)
    redis.zadd(key_of(session_id), {f"call {number}": at for number in range(LIMIT - but)})


def in_loop(function: Callable[[], Coroutine[Any, Any, R]]) -> R:
    async def closing() -> R:
        try:
            return await function()
        finally:
            await client().aclose()

    return asyncio.run(closing())


class Used:
    """A runner in a session of its own, and the order in which its tools began."""

    def __init__(self, *, limit: int = 8) -> None:
        self.session_id = uuid.uuid4()
        self.began: list[str] = []
        self.announced: list[str] = []
        self._limit = limit

    def runner(self) -> ToolRunner:
        context = ToolContext(self.session_id, uuid.uuid4())
        used = self

        async def act(context: ToolContext) -> str:
            used.began.append(context.call_id)
            return "acted"

        class Book(NoLedger):
            async def start(self, calls: Any) -> None:
                used.announced += [call.id for call in calls]

        rate = SessionToolRate(context.session_id, context.run_id)
        tools = {"look": Tool("look", "", {}, act, is_idempotent=True), "pay": Tool("pay", "", {}, act)}
        return ToolRunner(tools, context, Book(), rate=rate, limit=self._limit)

    def run(self, *calls: str, tool: str = "look") -> dict[str, ToolResult]:
        async def all_of_them() -> dict[str, ToolResult]:
            made = [ToolCall(call, tool) for call in calls]
            return {result.id: result async for result in self.runner().run(made)}

        return in_loop(all_of_them)

    @property
    def counted(self) -> int:
        return int(sync_client().zcard(key_of(self.session_id)))


def test_calls_of_one_answer_are_counted_and_run() -> None:
    used = Used()
    assert {result.result for result in used.run("a", "b", "c").values()} == {"acted"}
    assert used.counted == 3


def test_one_too_many_is_an_error_that_the_model_reads(settings: Any) -> None:
    settings.TOOL_RATE_WAIT_SECONDS = 0.2
    used = Used()
    use_up(used.session_id, but=2)
    results = used.run("a", "b", "c", tool="pay")
    refused = results["c"]
    assert refused.is_error
    assert refused.result == f"Not run: this session made more than {LIMIT} tool calls a minute. Use fewer."
    assert (used.began, used.announced) == (["a", "b"], ["a", "b"])  # the ledger has nothing that did not start


def test_it_waits_for_room(settings: Any) -> None:
    settings.TOOL_RATE_WAIT_SECONDS = 5
    used = Used()
    use_up(used.session_id, seconds_left=0.5)
    began = time.monotonic()
    assert used.run("a", tool="pay")["a"].result == "acted"
    assert time.monotonic() - began > 0.4
    assert used.announced == ["a"]


def test_who_waits_holds_up_nobody(settings: Any) -> None:
    """One place for tools at a time, and a call that waits for room stands before the others."""
    settings.TOOL_RATE_WAIT_SECONDS = 10
    used = Used(limit=1)
    use_up(used.session_id, but=1, seconds_left=0.7)

    async def both() -> None:
        runner = used.runner()
        runner.start_ahead(ToolCall("free", "look"))
        calls = [ToolCall("late", "look"), ToolCall("free", "look")]
        while not used.began:
            await asyncio.sleep(0)
        order = [result.id async for result in runner.run(calls)]
        assert order == ["free", "late"]

    in_loop(both)


def test_a_call_that_was_started_ahead_is_counted_once() -> None:
    used = Used()

    async def ahead() -> None:
        runner = used.runner()
        call = ToolCall("a", "look")
        runner.start_ahead(call)
        assert [result.result async for result in runner.run([call])] == ["acted"]

    in_loop(ahead)
    assert (used.counted, used.began) == (1, ["a"])


def test_parallel_calls_share_the_room(settings: Any) -> None:
    settings.TOOL_RATE_WAIT_SECONDS = 0
    used = Used()
    results = used.run(*(str(number) for number in range(LIMIT + 15)))
    assert sum(result.is_error for result in results.values()) == 15
    assert len(used.began) == used.counted == LIMIT


def test_a_cancel_ends_the_wait(settings: Any) -> None:
    settings.TOOL_RATE_WAIT_SECONDS = 60
    used = Used()
    use_up(used.session_id)

    async def cancel() -> None:
        async def use() -> None:
            async for _ in used.runner().run([ToolCall("a", "pay")]):
                pass

        task = asyncio.create_task(use())
        done, _ = await asyncio.wait({task}, timeout=0.3)
        assert not done
        task.cancel()
        await asyncio.wait({task}, timeout=5.0)
        assert task.cancelled()

    in_loop(cancel)
    assert (used.began, used.announced) == ([], [])


def test_a_framework_waits_until_the_minute_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    session = uuid.uuid4()

    def announce_one() -> None:
        context = RunContext(
            run_id=uuid.uuid4(),
            session_id=session,
            agent=AgentConfig("a"),
            message="",
            messages=[],
            tool_rate=SessionToolRate(session, uuid.uuid4()),
        )
        in_loop(lambda: announce(context, [ToolCall("a", "any")]))

    use_up(session, seconds_left=0.3)
    announce_one()
    sync_client().delete(key_of(session))
    use_up(session)
    monkeypatch.setattr(common, "ROOM_SECONDS", 0.1)
    with pytest.raises(ToolRateError, match="more than"):
        announce_one()


# --- a whole site ----------------------------------------------------------------------------------------------------


@pytest.fixture
def redis_of_site(site: Site) -> Redis:
    return Redis.from_url(site.runtime["redis_url"])


def test_the_model_reads_that_a_call_was_not_run(
    site: Site, client_of_site: Client, fake: FakeOpenAIProcess, redis_of_site: Redis
) -> None:
    session = client_of_site.new_session("chat")
    use_up(session, redis=redis_of_site)
    events = client_of_site.chat(session, '[[tool=calculator args={"expression": "1+1"}]]')
    (result,) = [event for event in events if event["type"] == "tool_result"]
    assert result["is_error"]
    assert f"more than {LIMIT} tool calls a minute" in result["result"]
    assert events[-1]["type"] == "done"
    told = fake.requests()[-1]["body"]["messages"][-1]
    assert (told["role"], told["content"]) == ("tool", result["result"])


def test_a_run_is_cancelled_while_its_tool_waits(site: Site, client_of_site: Client, redis_of_site: Redis) -> None:
    session = client_of_site.new_session("chat")
    use_up(session, redis=redis_of_site)
    asked = {"message": '[[tool=calculator args={"expression": "1+1"}]]'}
    with client_of_site.stream("POST", f"/sessions/{session}/chat", json=asked) as events:
        assert any(event["type"] == "tool_call" for event in events)
        began = time.monotonic()
        with site.client() as other:
            assert other.http.post(f"/sessions/{session}/cancel").json()["status"] == "cancelled"
        assert list(events)[-1]["type"] == "cancelled"
        assert time.monotonic() - began < 5  # the tool would have waited for ten

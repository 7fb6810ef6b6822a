"""Redis carries the live stream, and may lose it, cut it or be away: nobody misses an event unannounced."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import redis

from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, running_site, text_of

WHOLE = "".join(f"tok{n} " for n in range(150))
ASKED = {"message": "hi [[tokens=150 delay_ms=10]]"}


@contextmanager
def redis_of(site: Site) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(site.runtime["redis_url"]) as connection:
        yield connection


def rest_of_session(client: Client, session: str, after: str = "0-0") -> list[dict[str, Any]]:
    found = []
    with client.stream("GET", f"/sessions/{session}/events", params={"after": after}) as events:
        for event in events:
            found.append(event)
            if event["type"] == "done":
                return found
    raise AssertionError("the stream ended")


def test_a_stream_that_redis_loses_in_the_middle_is_written_again(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with client_of_site.stream("POST", f"/sessions/{session}/chat", json=ASKED) as events, redis_of(site) as connection:
        seen = [next(events) for _ in range(10)]
        connection.delete(f"agentsite:events:{session}")
        with site.client() as late:
            told_late = rest_of_session(late, session)
        seen += events
    assert text_of(seen) == text_of(told_late) == WHOLE
    for told in (seen, told_late):
        ids = [tuple(map(int, event["id"].split("-"))) for event in told]
        assert ids == sorted(set(ids))
        assert "discard" not in [event["type"] for event in told]


def test_what_was_cut_off_and_is_not_on_record_is_announced(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with client_of_site.stream("POST", f"/sessions/{session}/chat", json=ASKED) as events, redis_of(site) as connection:
        seen = [next(events) for _ in range(20)]
        connection.xtrim(f"agentsite:events:{session}", maxlen=1, approximate=False)
        with site.client() as late:
            told = rest_of_session(late, session)
        seen += events
    assert text_of(seen) == WHOLE
    gap = next(event for event in told if event["type"] == "discard")
    assert (gap["reason"], gap["id"]) == ("gap", None)
    assert text_of(told) != WHOLE
    assert client_of_site.http.get(f"/sessions/{session}/history").json()["messages"][1]["content"] == WHOLE


def test_a_cursor_ahead_of_the_newest_event_is_refused(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with client_of_site.stream("POST", f"/sessions/{session}/chat", json=ASKED) as events, site.client() as other:
        next(events)
        ahead = other.http.get(f"/sessions/{session}/events", params={"after": "1-5000"})
        assert (ahead.status_code, ahead.json()["error"]["code"]) == (400, "invalid_cursor")
        last = list(events)[-1]["id"]
    behind = f"1-{int(last.split('-')[1]) + 1}"
    ahead = client_of_site.http.get(f"/sessions/{session}/events", params={"after": behind})
    assert (ahead.status_code, ahead.json()["error"]["code"]) == (400, "invalid_cursor")


@pytest.fixture
def own_site(fake: FakeOpenAIProcess) -> Iterator[Site]:
    with running_site(**fake.site_env) as site:
        yield site


@contextmanager
def stopped_valkey(site: Site) -> Iterator[None]:
    children = psutil.Process(site.process.pid).children()
    valkey = next(child for child in children if "valkey" in child.name())
    valkey.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        valkey.send_signal(signal.SIGCONT)


def test_without_redis_new_turns_are_refused_and_running_ones_go_on(own_site: Site) -> None:
    with own_site.client() as client, own_site.client() as other:
        session = client.new_session("chat")
        with client.stream("POST", f"/sessions/{session}/chat", json=ASKED) as events:
            seen = [next(events) for _ in range(5)]
            with stopped_valkey(own_site):
                refused = other.http.post(f"/sessions/{session}/chat", json={"message": "now"})
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
                assert int(refused.headers["Retry-After"]) > 0
            seen += events
        assert text_of(seen) == WHOLE
        messages = client.http.get(f"/sessions/{session}/history").json()["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
    assert "Traceback" not in own_site.log("worker") + own_site.log("web")

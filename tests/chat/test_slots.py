"""Runs that have to wait for a free slot, in the whole system: what its clients see of it, and that no slot is lost."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import Any

import pytest
import redis

from tests.chat.test_lost_worker import workers_of
from tests.chat.test_websocket import open_socket, receive, receive_until, send
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, running_site, text_of

LONG = {"message": "[[tokens=9000 delay_ms=10]]"}
SHORT = {"message": "[[tokens=3]]"}
TERMINAL = ("done", "error", "cancelled")


@pytest.fixture(scope="module")
def narrow(running_fake: FakeOpenAIProcess) -> Iterator[Site]:
    """A site with one slot, on which one waits as long as it takes."""
    env = {"MAX_CONCURRENT_AGENTS": "1", "SLOT_WAIT_SECONDS": "600", "SWEEP_SECONDS": "1", "RUN_LEASE_SECONDS": "4"}
    tools = {"EXTRA_AGENT_TOOLS": "send_mail=tests.fakes.own_tools.send_mail", "DRAIN_SECONDS": "1"}
    with running_site(**running_fake.site_env, **env, **tools) as site:
        yield site


@pytest.fixture
def client(narrow: Site) -> Iterator[Client]:
    with narrow.client() as client:
        yield client
    assert slots_of(narrow) == (0, 0)  # no test leaves one behind


def slots_of(site: Site) -> tuple[int, int]:
    """Held and waiting, when they have come to rest."""
    with redis.Redis.from_url(site.runtime["redis_url"]) as connection:

        def count() -> tuple[int, int]:
            return connection.zcard("agentsite:slots:held"), connection.zcard("agentsite:slots:waiting")  # type: ignore[return-value]

        deadline = time.monotonic() + 5.0
        while count() != (0, 0) and time.monotonic() < deadline:
            time.sleep(0.02)
        return count()


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def occupied(client: Client) -> Iterator[str]:
    """The one slot is held; the session that holds it."""
    session = client.new_session("chat")
    with client.stream("POST", f"/sessions/{session}/chat", json=LONG, timeout=60.0) as events:
        assert next(events)["type"] == "message"
        yield session
        assert client.http.post(f"/sessions/{session}/cancel").status_code in (200, 202, 409)


@contextmanager
def waiting(client: Client, session: str, message: dict[str, Any] = SHORT) -> Iterator[Iterator[dict[str, Any]]]:
    """A turn that has to wait; the events behind the first two, which say so."""
    with client.stream("POST", f"/sessions/{session}/chat", json=message, timeout=60.0) as events:
        first, second = next(events), next(events)
        assert (first["type"], second["type"], second["status"]) == ("message", "status", "waiting")
        yield events


def kinds(events: list[dict[str, Any]]) -> list[Any]:
    """Types, neighbouring deltas as one, and what statuses say."""
    found = [event.get("status") if event["type"] == "status" else event["type"] for event in events]
    return [kind for kind, _ in groupby(found)]


def whole(client: Client, session: str) -> list[dict[str, Any]]:
    """All events of a session to its first end, as who comes later sees them."""
    found: list[dict[str, Any]] = []
    with client.stream("GET", f"/sessions/{session}/events", params={"after": "0-0"}) as events:
        for event in events:
            found.append(event)
            if event["type"] in TERMINAL:
                return found
    raise AssertionError("no end")


def test_a_run_waits_and_is_told_so_and_then_works(client: Client) -> None:
    session = client.new_session("chat")
    with occupied(client) as busy, waiting(client, session) as events:
        (run,) = client.http.get(f"/sessions/{session}/runs").json()["results"]
        assert (run["status"], run["waiting_position"]) == ("queued", 1)
        client.http.post(f"/sessions/{busy}/cancel")
        rest = list(events)
    assert kinds([event for event in rest if event["type"] != "response"]) == ["running", "done"]
    assert text_of(rest) == "tok0 tok1 tok2 "
    seen = whole(client, session)
    assert kinds(seen) == ["message", "waiting", "running", "response", "done"]
    assert len({event["id"] for event in seen}) == 5
    (run,) = client.http.get(f"/sessions/{session}/runs").json()["results"]
    assert (run["status"], run["waiting_position"]) == ("succeeded", None)


def test_places_are_told_in_order_by_sse_and_websocket(client: Client, narrow: Site) -> None:
    sessions = [client.new_session("chat") for _ in range(3)]
    with occupied(client) as busy, ThreadPoolExecutor(3) as pool:
        blockers = []
        for session in sessions[:2]:

            def run(session: str = session) -> list[dict[str, Any]]:
                with narrow.client() as other:
                    return other.chat(session, "[[tokens=150 delay_ms=10]]")

            blockers.append(pool.submit(run))
            wait_until(partial(places, client, session))
        with open_socket(narrow, sessions[2]) as socket:
            send(socket, type="chat", message="[[tokens=3]]")
            assert [frame["type"] for frame in (receive(socket), receive(socket))] == ["accepted", "message"]
            frames = [receive(socket)]
            client.http.post(f"/sessions/{busy}/cancel")
            frames += receive_until(socket, "done")
        tapes = [blocker.result() for blocker in blockers]
    positions = [frame["data"]["position"] for frame in frames if frame["data"].get("status") == "waiting"]
    assert positions == [3, 2, 1]
    assert "message" not in {frame["type"] for frame in frames}
    assert [tape[0]["type"] for tape in tapes] == ["message"] * 2
    told = [[event["position"] for event in tape if event.get("status") == "waiting"] for tape in tapes]
    assert told == [[1], [2, 1]]
    ids = [event["id"] for event in whole(client, sessions[2])]
    assert ids == [*sorted(ids, key=lambda text: tuple(map(int, text.split("-"))))]


def places(client: Client, session: str) -> bool:
    runs = client.http.get(f"/sessions/{session}/runs").json()["results"]
    return any(run["waiting_position"] for run in runs)


def test_who_comes_back_while_it_waits_gets_the_rest(client: Client, narrow: Site) -> None:
    session = client.new_session("chat")
    with occupied(client) as busy:
        with waiting(client, session):
            pass  # and hang up
        with narrow.client() as other:
            with other.stream("GET", f"/sessions/{session}/events") as events:  # from the run's start
                assert kinds([next(events), next(events)]) == ["message", "waiting"]
            headers = {"Last-Event-ID": whole_so_far(client, session)[-1]}
            with other.stream("GET", f"/agent/{session}/chat", headers=headers) as events:
                client.http.post(f"/sessions/{busy}/cancel")
                assert kinds(list(events)) == ["running", "response", "done"]


def whole_so_far(client: Client, session: str) -> list[str]:
    with client.stream("GET", f"/sessions/{session}/events", params={"after": "0-0"}) as events:
        return [next(events)["id"], next(events)["id"]]


def test_cancelled_while_it_waits_it_tells_its_message_once(client: Client) -> None:
    session = client.new_session("chat")
    with occupied(client):
        with waiting(client, session) as events:
            assert client.http.post(f"/sessions/{session}/cancel").json() == {"status": "cancelled"}
            assert kinds(list(events)) == ["cancelled"]
        assert kinds(whole(client, session)) == ["message", "waiting", "cancelled"]
        with waiting(client, client.new_session("chat")) as events:  # nobody is before it any more
            pass
        client.http.post(f"/sessions/{session}/cancel")
    retried = client.http.get(f"/sessions/{session}/runs").json()["results"][0]["run_id"]
    with client.stream("POST", f"/runs/{retried}/retry", json={}) as events:
        # The slot of what was cancelled last may still be on its way back.
        told = [kind for kind in kinds(list(events)) if kind not in ("waiting", "running")]
        assert told == ["message", "response", "done"]


def test_messages_of_one_session_take_one_slot_after_the_other(client: Client, narrow: Site) -> None:
    session = client.new_session("chat")
    with occupied(client) as busy, waiting(client, session) as first, narrow.client() as other:
        second = other.stream("POST", f"/sessions/{session}/chat", json=SHORT, timeout=60.0)
        with second as behind, redis.Redis.from_url(narrow.runtime["redis_url"]) as connection:
            assert connection.zcard("agentsite:slots:waiting") == 1
            client.http.post(f"/sessions/{busy}/cancel")
            assert kinds(list(first)) == ["running", "response", "done"]
            assert kinds(list(behind)) == ["message", "response", "done"]


def test_the_next_message_goes_when_the_one_before_it_is_cancelled_while_it_waits(client: Client, narrow: Site) -> None:
    session = client.new_session("chat")
    with occupied(client) as busy, waiting(client, session) as first, narrow.client() as other:
        run_id = client.http.get(f"/sessions/{session}/runs").json()["results"][0]["run_id"]
        with other.stream("POST", f"/sessions/{session}/chat", json=SHORT, timeout=60.0) as behind:
            client.http.post(f"/sessions/{session}/cancel", json={"run_id": run_id})
            assert kinds(list(first)) == ["cancelled"]
            assert kinds([next(behind), next(behind)]) == ["message", "waiting"]
            client.http.post(f"/sessions/{busy}/cancel")
            assert kinds(list(behind)) == ["running", "response", "done"]


@pytest.mark.parametrize("on_busy", ["interrupt", "rollback"])
def test_a_message_may_replace_one_that_waits(client: Client, narrow: Site, on_busy: str) -> None:
    session = client.new_session("chat")
    with occupied(client) as busy, waiting(client, session) as first, narrow.client() as other:
        second = other.stream("POST", f"/sessions/{session}/chat", json={**SHORT, "on_busy": on_busy}, timeout=60.0)
        with second as events:
            assert kinds(list(first)) == ["cancelled"]
            assert kinds([next(events), next(events)]) == ["message", "waiting"]
            client.http.post(f"/sessions/{busy}/cancel")
            assert kinds(list(events)) == ["running", "response", "done"]
    history = client.http.get(f"/sessions/{session}/history").json()["messages"]
    assert len(history) == (2 if on_busy == "rollback" else 3)


def test_a_message_may_steer_one_that_waits(client: Client, narrow: Site) -> None:
    session = client.new_session("chat")
    slow = {"message": "[[tokens=20 delay_ms=10]]"}
    with occupied(client) as busy, waiting(client, session, slow) as first, narrow.client() as other:
        second = other.stream("POST", f"/sessions/{session}/chat", json={**SHORT, "on_busy": "steer"}, timeout=60.0)
        with second as events:
            client.http.post(f"/sessions/{busy}/cancel")
            assert kinds(list(first))[-1] == "done"
            assert kinds(list(events))[-1] == "done"


def test_a_deleted_session_gives_its_place_back(client: Client, narrow: Site) -> None:
    session = client.new_session("chat")
    with occupied(client), waiting(client, session):
        assert client.http.delete(f"/sessions/{session}").status_code == 200
        with redis.Redis.from_url(narrow.runtime["redis_url"]) as connection:
            assert connection.zcard("agentsite:slots:waiting") == 0


def test_a_run_that_waits_for_a_person_holds_no_slot(client: Client, narrow: Site) -> None:
    code = 'from sessions_app.models import AgentType; AgentType.objects.create(name="mailer", runtime="chat", '
    narrow.manage("shell", "-v", "0", "-c", code + 'tools=["send_mail"], max_attempts=3)')
    session = client.new_session("mailer")
    answer = client.ask(session, '[[tool=send_mail args={"to": "a@b.c", "subject": "Hi"}]]')
    assert answer["status"] == "awaiting_approval"
    (approval,) = answer["approvals"]
    with occupied(client) as busy, narrow.client() as other:
        headers = {"Last-Event-ID": "1-1"}
        with other.stream("GET", f"/agent/{session}/chat", headers=headers, timeout=60.0) as events:
            settle = f"/runs/{approval['run_id']}/tool_calls/{approval['tool_call_id']}/settle"
            assert client.http.post(settle, json={"decision": "approved"}).json() == {"status": "queued"}
            seen = [next(events)]
            while seen[-1].get("status") != "waiting":
                seen.append(next(events))
            client.http.post(f"/sessions/{busy}/cancel")
            seen += events
    assert "message" not in kinds(seen)
    assert [kind for kind in kinds(seen) if kind in ("waiting", "discard", "done")] == ["waiting", "discard", "done"]


def test_a_dead_workers_slot_goes_with_its_run(client: Client, narrow: Site) -> None:
    mine, theirs = client.new_session("chat"), client.new_session("chat")
    asked = {"message": "[[tokens=300 delay_ms=10]]"}
    with narrow.client() as other, client.stream("POST", f"/sessions/{mine}/chat", json=asked, timeout=60.0) as events:
        assert next(events)["type"] == "message"
        with waiting(other, theirs) as behind:
            for worker in workers_of(narrow):
                worker.kill()
            assert [kind for kind in kinds(list(events)) if kind != "response"] == ["discard", "done"]
            assert kinds(list(behind)) == ["running", "response", "done"]


def test_a_worker_that_is_stopped_keeps_the_slots_of_its_runs(client: Client, narrow: Site) -> None:
    mine, theirs = client.new_session("chat"), client.new_session("chat")
    asked = {"message": "[[tokens=300 delay_ms=10]]"}
    with narrow.client() as other, client.stream("POST", f"/sessions/{mine}/chat", json=asked, timeout=60.0) as events:
        assert next(events)["type"] == "message"
        with waiting(other, theirs) as behind:
            for worker in workers_of(narrow):
                worker.send_signal(signal.SIGTERM)
            assert [kind for kind in kinds(list(events)) if kind != "response"] == ["discard", "done"]
            assert kinds(list(behind)) == ["running", "response", "done"]


def test_after_a_flush_nobody_overtakes_and_nobody_is_forgotten(client: Client, narrow: Site) -> None:
    session = client.new_session("chat")
    with occupied(client) as busy, waiting(client, session) as events, narrow.client() as other:
        with redis.Redis.from_url(narrow.runtime["redis_url"]) as connection:
            connection.flushall()
        with waiting(other, other.new_session("chat")) as late:
            running = [run for run in all_runs(client) if run["status"] == "running"]
            assert [run["session_id"] for run in running] == [busy]
            client.http.post(f"/sessions/{busy}/cancel")
            assert kinds(list(events))[-1] == "done"
            assert kinds(list(late))[-1] == "done"


def all_runs(client: Client) -> list[dict[str, Any]]:
    sessions = client.http.get("/sessions").json()["results"]
    return [
        run
        for session in sessions
        for run in client.http.get(f"/sessions/{session['session_id']}/runs").json()["results"]
    ]


def test_health_and_metrics_tell(client: Client) -> None:
    assert client.http.get("/health/detailed").json()["checks"]["sessions"]["max"] == 1
    session = client.new_session("chat")
    with occupied(client), waiting(client, session):
        lines = client.http.get("/metrics").text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert values['agentsite_slots{state="held"}'] == values['agentsite_slots{state="waiting"}'] == "1.0"
        client.http.post(f"/sessions/{session}/cancel")


def test_who_has_waited_too_long_is_told(running_fake: FakeOpenAIProcess) -> None:
    env = {"MAX_CONCURRENT_AGENTS": "1", "SLOT_WAIT_SECONDS": "1", "SWEEP_SECONDS": "1"}
    with running_site(**running_fake.site_env, **env) as site, site.client() as client, site.client() as other:
        session = client.new_session("chat")
        with occupied(client):
            with waiting(client, session) as events:
                last = list(events)[-1]
            assert (last["type"], last["code"]) == ("error", "slot_timeout")
            assert last["message"].startswith("No slot became free within 1 seconds")
            assert kinds(whole(client, session)) == ["message", "waiting", "error"]
            answer = other.http.post(f"/sessions/{session}/chat", json={**SHORT, "stream": False})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "slot_timeout")
            assert int(answer.headers["Retry-After"]) > 0
        assert "agentsite_slot_timeouts_total 2.0" in client.http.get("/metrics").text
        assert client.ask(session, SHORT["message"])["status"] == "succeeded"
        assert slots_of(site) == (0, 0)

"""How long an answer, a run and a session may take, each with an end that says so."""

import time
from typing import Any

import psycopg
import pytest

from tests.chat.test_lost_worker import workers_of
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, running_site, text_of

_MAKE = """
from sessions_app.models import AgentType
fields = {"runtime": "chat", "max_step_seconds": 1, "model_retries": 0}
AgentType.objects.create(name="brisk", tools=["slow", "produce"], **fields)
"""


@pytest.fixture(scope="module")
def brisk(site: Site) -> str:
    site.manage("shell", "-v", "0", "-c", _MAKE)
    return "brisk"


def set_worked(site: Site, session: str, seconds: float) -> None:
    code = f"from sessions_app.models import AgentSession as S; S.objects.filter(pk='{session}').update(worked_ms={{}})"
    site.manage("shell", "-v", "0", "-c", code.format(int(seconds * 1_000)))


def worked(client: Client, session: str) -> float:
    return float(client.http.get(f"/sessions/{session}").json()["worked_seconds"])


@pytest.mark.parametrize("script", ["hang", "tokens=900 delay_ms=20"])
def test_an_answer_that_takes_too_long_ends_and_is_closed(
    script: str, brisk: str, client_of_site: Client, fake: FakeOpenAIProcess
) -> None:
    events = client_of_site.chat(client_of_site.new_session(brisk), f"[[{script}]]")
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "step_timeout")
    assert events[-1]["message"] == "An answer of the model took longer than 1 seconds."
    assert fake.wait_for_request(lambda seen: bool(seen["client_disconnected"]))


def test_the_limit_is_of_each_answer(brisk: str, client_of_site: Client) -> None:
    """Four answers of half a second, and a tool that takes as long."""
    events = client_of_site.chat(client_of_site.new_session(brisk), "[[tool=slow rounds=3 tokens=20 delay_ms=25]]")
    assert events[-1]["type"] == "done", events[-1]


def test_a_session_has_its_time(site: Site, client_of_site: Client, fake: FakeOpenAIProcess) -> None:
    session = client_of_site.new_session("chat")
    info = client_of_site.http.get(f"/sessions/{session}").json()
    assert (info["worked_seconds"], info["max_worked_seconds"]) == (0, 3_600)
    set_worked(site, session, 3_599)
    asked = time.monotonic()
    events = client_of_site.chat(session, "[[tokens=9000 delay_ms=10]]")
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "session_timeout")
    assert 0.8 < time.monotonic() - asked < 5
    assert text_of(events)  # what was there is kept
    assert fake.wait_for_request(lambda seen: bool(seen["client_disconnected"]))
    assert 3_600 <= worked(client_of_site, session) < 3_603
    for path, body in ((f"/sessions/{session}/chat", {"message": "hi"}), (f"/runs/{events[-1]['run_id']}/retry", {})):
        refused = client_of_site.http.post(path, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_timeout")
    client_of_site.http.post(f"/sessions/{session}/extend", json={"extra_seconds": 3_600})
    assert worked(client_of_site, session) >= 3_600
    set_worked(site, session, 0)
    assert client_of_site.ask(session, "hi")["status"] == "succeeded"


def test_a_repeated_message_gets_its_run_when_the_time_is_over(site: Site, client_of_site: Client) -> None:
    session = client_of_site.new_session()
    message: dict[str, Any] = {"json": {"message": "hi", "stream": False}, "headers": {"Idempotency-Key": "k"}}
    first = client_of_site.http.post(f"/sessions/{session}/chat", **message).json()
    set_worked(site, session, 3_600)
    again = client_of_site.http.post(f"/sessions/{session}/chat", **message)
    assert (again.status_code, again.json()["run_id"]) == (200, first["run_id"])


def test_waiting_for_a_person_is_no_work(site: Site, client_of_site: Client) -> None:
    session = client_of_site.new_session("chat")
    site.manage(
        "shell",
        "-v",
        "0",
        "-c",
        "from sessions_app.models import AgentType;"
        "AgentType.objects.get_or_create(name='asking', defaults={'runtime': 'chat', 'tools': ['send_mail']})",
    )
    session = client_of_site.new_session("asking")
    answer = client_of_site.ask(session, '[[tool=send_mail args={"to": "a@b"}]]')
    assert answer["status"] == "awaiting_approval"
    before = worked(client_of_site, session)
    assert before > 0
    call = answer["approvals"][0]
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:  # a person thinks
        assert worked(client_of_site, session) == before
    path = f"/runs/{answer['run_id']}/tool_calls/{call['tool_call_id']}/settle"
    assert client_of_site.http.post(path, json={"decision": "approved"}).status_code == 200
    events = client_of_site.events_after(session, "0-0", until=_end_of(client_of_site, answer["run_id"]))
    assert events[-1]["type"] == "done"
    assert before < worked(client_of_site, session) < before + 1.2


def _end_of(client: Client, run_id: str) -> str:
    while not (cursor := client.http.get(f"/runs/{run_id}").json()["cursor"]):
        time.sleep(0.05)
    return str(cursor)


def test_the_time_of_a_lost_worker_counts(fake: FakeOpenAIProcess) -> None:
    """The sweeper counts what the lost attempt has worked; the next attempt has what is left of the session's time."""
    env = fake.site_env | {
        "RUN_LEASE_SECONDS": "3",
        "DRAIN_SECONDS": "1",
        "SWEEP_SECONDS": "1",
        "MAX_SESSION_DURATION_SECONDS": "6",
    }
    with running_site(**env) as site, site.client() as client:
        session = client.new_session("chat")
        asked = {"message": "[[tokens=9000 delay_ms=10]]"}
        began = time.monotonic()
        with client.stream("POST", f"/sessions/{session}/chat", json=asked, timeout=60.0) as events:
            for event in events:
                if event["type"] == "response" and time.monotonic() - began > 2.5:
                    break
            for worker in workers_of(site):
                worker.kill()
            discard = next(event for event in events if event["type"] == "discard")
            assert discard["attempt"] == 2
            assert 1 <= worked(client, session) < 5  # to the last sign of the worker
            assert list(events)[-1]["code"] == "session_timeout"
        assert 6 <= worked(client, session) < 7.5


def test_a_limit_that_comes_in_the_middle_of_a_write_ends_the_run_all_the_same(
    site: Site, client_of_site: Client
) -> None:
    """The step's write is under way, held up by a lock: it is on record when the end is written."""
    fields = "{'runtime': 'chat', 'max_run_seconds': 1, 'tools': ['produce']}"
    code = f"AgentType.objects.get_or_create(name='short', defaults={fields})"
    site.manage("shell", "-v", "0", "-c", f"from sessions_app.models import AgentType; {code}")
    session = client_of_site.new_session("short")
    asked = {"message": '[[reasoning=10 delay_ms=50 tool=produce args={"characters": 3}]]'}
    with (
        psycopg.connect(site.runtime["database_url"]) as database,
        client_of_site.stream("POST", f"/sessions/{session}/chat", json=asked) as events,
    ):
        assert [next(events)["type"] for _ in range(2)] == ["message", "thought"]
        database.execute("SELECT 1 FROM sessions_app_agentsession WHERE id = %s FOR UPDATE", [session])
        database.execute("SELECT pg_sleep(2)")
        database.rollback()
        released = time.monotonic()
        told = list(events)
    assert (told[-1]["type"], told[-1]["code"]) == ("error", "run_timeout")
    assert "discard" not in [event["type"] for event in told]
    assert time.monotonic() - released < 3

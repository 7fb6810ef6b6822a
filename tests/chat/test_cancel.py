"""Stop means stop: cancelled is said when it is true, and what came until then is kept."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, text_of

LONG = "hi [[tokens=5000 delay_ms=5]]"


def start(client: Client, session: str, message: str = LONG) -> Any:
    return client.stream("POST", f"/sessions/{session}/chat", json={"message": message})


def read_until_text(events: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    seen = []
    for event in events:
        seen.append(event)
        if event["type"] == "response":
            break
    return seen


def test_it_stops_a_running_answer_and_keeps_what_came(
    site: Site, client_of_site: Client, fake: FakeOpenAIProcess
) -> None:
    session = client_of_site.new_session("chat")
    with start(client_of_site, session) as events, site.client() as other:
        seen = read_until_text(events)
        answer = other.http.post(f"/sessions/{session}/cancel")
        assert (answer.status_code, answer.json()) == (200, {"status": "cancelled"})
        seen += list(events)
    assert seen[-1]["type"] == "cancelled"
    message = client_of_site.http.get(f"/sessions/{session}/history").json()["messages"][-1]
    assert message["is_partial"] is True
    assert message["content"] == text_of(seen)
    fake.wait_for_request(lambda request: bool(request["client_disconnected"]))  # the provider stops generating


def test_it_stops_a_model_that_says_nothing(client_of_site: Client, site: Site, fake: FakeOpenAIProcess) -> None:
    session = client_of_site.new_session("chat")
    with start(client_of_site, session, "[[hang]]") as events, site.client() as other:
        assert next(events)["type"] == "message"
        fake.wait_for_request(lambda request: True)
        assert other.http.post(f"/sessions/{session}/cancel").status_code == 200
        assert [event["type"] for event in events] == ["cancelled"]


def test_it_stops_what_waits_behind_a_running_answer_too(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with start(client_of_site, session) as events, site.client() as other, site.client() as third:
        read_until_text(events)
        with start(other, session) as waiting:
            assert third.http.post(f"/sessions/{session}/cancel").json() == {"status": "cancelled"}
            assert [event["type"] for event in waiting] == ["message", "cancelled"]
        assert [event for event in events if event["type"] != "response"][-1]["type"] in ("cancelled", "message")
    runs = client_of_site.http.get(f"/sessions/{session}/runs").json()["results"]
    assert [run["status"] for run in runs] == ["cancelled", "cancelled"]
    assert all(run["cursor"] for run in runs)


def test_it_can_stop_one_waiting_run_and_leave_the_running_one(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with start(client_of_site, session, "hi [[tokens=200 delay_ms=5]]") as events, site.client() as other:
        read_until_text(events)
        with start(other, session) as waiting, site.client() as third:
            run_id = third.http.get(f"/sessions/{session}/runs").json()["results"][0]["run_id"]
            answer = third.http.post(f"/sessions/{session}/cancel", json={"run_id": run_id})
            assert answer.json() == {"status": "cancelled"}
            assert [event["type"] for event in waiting] == ["message", "cancelled"]
        assert list(events)[-1]["type"] == "done"


def test_repeating_it_is_harmless(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with start(client_of_site, session) as events, ThreadPoolExecutor(5) as pool:
        read_until_text(events)

        def cancel(_: int) -> int:
            with site.client() as client:
                return client.http.post(f"/sessions/{session}/cancel").status_code

        assert set(pool.map(cancel, range(5))) <= {200, 202}
        assert [event["type"] for event in events].count("cancelled") == 1
    assert client_of_site.http.post(f"/sessions/{session}/cancel").json() == {"status": "cancelled"}


def test_there_must_be_something_to_stop(client_of_site: Client) -> None:
    session = client_of_site.new_session()
    answer = client_of_site.http.post(f"/sessions/{session}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_active_run")
    client_of_site.ask(session, "hello")
    assert client_of_site.http.post(f"/sessions/{session}/cancel").status_code == 409


def test_a_stranger_cannot_stop_it(client_of_site: Client, stranger: Client) -> None:
    answer = stranger.http.post(f"/sessions/{client_of_site.new_session()}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found")


def test_deleting_a_session_stops_what_runs_in_it(client_of_site: Client, site: Site, fake: FakeOpenAIProcess) -> None:
    session = client_of_site.new_session("chat")
    with start(client_of_site, session) as events, site.client() as other:
        read_until_text(events)
        assert other.http.delete(f"/sessions/{session}").json() == {"status": "deleted"}
        assert list(events)[-1]["type"] == "cancelled"
    fake.wait_for_request(lambda request: bool(request["client_disconnected"]))
    assert client_of_site.http.get(f"/sessions/{session}").status_code == 404


# A worker was lost between the end of its run and its word on one that was cancelled while it waited.
_LOSE = """
from django.utils import timezone
from sessions_app.models import AgentSession, Run
from sessions_app.services.accepting import accept_turn
session = AgentSession.objects.get(pk="{session}")
turn = accept_turn(user=session.owner, session_id=session.pk, message="Never mind")
Run.objects.filter(pk=turn.run_id).update(status="cancelled", cancel_requested_at=timezone.now())
"""


def test_a_cancel_that_a_lost_worker_was_to_tell_is_told(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session()
    with client_of_site.stream("GET", f"/sessions/{session}/events", params={"after": "0-0"}) as events:
        site.manage("shell", "-v", "0", "-c", _LOSE.format(session=session))
        told = [next(events), next(events)]
    assert [event["type"] for event in told] == ["message", "cancelled"]
    (run,) = client_of_site.http.get(f"/sessions/{session}/runs").json()["results"]
    assert run["cursor"] == told[-1]["id"]

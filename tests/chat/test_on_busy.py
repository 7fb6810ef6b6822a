"""What becomes of a message that comes while another turn runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.chat.test_websocket import open_socket, receive_until, send
from tests.site import Client, Site, text_of

LONG = "first [[tokens=3000 delay_ms=10]]"
SHORT = "second [[tokens=5]]"
FIVE = "".join(f"tok{n} " for n in range(5))


@contextmanager
def running(client: Client, session: str, message: str = LONG) -> Iterator[Iterator[dict[str, Any]]]:
    """A turn that has begun to answer."""
    with client.stream("POST", f"/sessions/{session}/chat", json={"message": message}) as events:
        while next(events)["type"] != "response":
            pass
        yield events


def history(client: Client, session: str) -> list[tuple[str, bool]]:
    messages = client.http.get(f"/sessions/{session}/history").json()["messages"]
    return [(message["role"], message["is_partial"]) for message in messages]


def post(client: Client, session: str, on_busy: str, message: str = SHORT, **options: Any) -> Any:
    body = {"message": message, "stream": False, "on_busy": on_busy}
    return client.http.post(f"/sessions/{session}/chat", json=body, **options)


def test_reject_writes_nothing(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with running(client_of_site, session), site.client() as other:
        refused = post(other, session, "reject")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_busy")
        assert history(other, session) == [("user", False)]
        other.http.post(f"/sessions/{session}/cancel")
    assert post(client_of_site, session, "reject").json()["status"] == "succeeded"


def test_interrupt_keeps_the_partial_answer(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with running(client_of_site, session) as events, site.client() as other:
        assert post(other, session, "interrupt").json()["response"] == FIVE
        assert list(events)[-1]["type"] == "cancelled"
    assert history(client_of_site, session) == [
        ("user", False),
        ("assistant", True),
        ("user", False),
        ("assistant", False),
    ]


def test_rollback_removes_the_turn(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with running(client_of_site, session) as events, site.client() as other:
        assert post(other, session, "rollback").json()["response"] == FIVE
        last = list(events)[-1]
    assert (last["type"], last["rolled_back"]) == ("cancelled", True)
    assert history(client_of_site, session) == [("user", False), ("assistant", False)]
    assert client_of_site.http.get(f"/runs/{last['run_id']}").json()["rolled_back"] is True
    assert client_of_site.http.get(f"/sessions/{session}").json()["message_count"] == 2


def test_interrupt_also_ends_what_waits(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with running(client_of_site, session), site.client() as other, site.client() as third:
        url = f"/sessions/{session}/chat"
        with other.http.stream("POST", url, json={"message": "queued"}) as waiting:
            assert waiting.status_code == 200
            assert post(third, session, "interrupt").json()["response"] == FIVE
    runs = client_of_site.http.get(f"/sessions/{session}/runs").json()["results"]
    assert [run["status"] for run in runs] == ["succeeded", "cancelled", "cancelled"]


def test_steer_enters_the_running_turn(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with running(client_of_site, session, "first [[tokens=60 delay_ms=10]]") as events, site.client() as other:
        steering = {"message": SHORT, "on_busy": "steer"}
        with other.stream("POST", f"/sessions/{session}/chat", json=steering) as steered:
            told = list(steered)
        rest = list(events)
    assert [event["type"] for event in told if event["type"] != "response"] == ["message", "done", "done"]
    assert text_of(told) == FIVE
    first = rest[-1]["run_id"]
    ends = [event for event in told if event["type"] == "done"]
    assert (ends[0]["steered_into"], ends[1]["run_id"]) == (first, first)
    assert [event["type"] for event in rest if event["type"] != "response"] == ["done"]
    assert text_of(rest).endswith("tok59 " + FIVE)
    assert history(client_of_site, session) == [("user", False), ("assistant", False)] * 2
    runs = client_of_site.http.get(f"/sessions/{session}/runs").json()["results"]
    assert [(run["status"], run["steered_into"]) for run in runs] == [("succeeded", first), ("succeeded", None)]


def test_steer_without_a_stream_answers_with_the_turn_that_took_it(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with running(client_of_site, session, "first [[tokens=60 delay_ms=10]]") as events, site.client() as other:
        answer = post(other, session, "steer").json()
        assert (answer["response"], answer["run_id"]) == (FIVE, list(events)[-1]["run_id"])


def test_steer_into_nothing_is_a_turn(client_of_site: Client) -> None:
    session = client_of_site.new_session("chat")
    assert post(client_of_site, session, "steer").json()["response"] == FIVE


def test_an_agent_that_cannot_be_steered_answers_afterwards(client_of_site: Client, site: Site) -> None:
    """The run it meant to steer is cancelled before its next step: the message is not lost."""
    session = client_of_site.new_session("chat")
    steering = {"message": SHORT, "on_busy": "steer"}
    with (
        running(client_of_site, session) as events,
        site.client() as other,
        site.client() as third,
        other.stream("POST", f"/sessions/{session}/chat", json=steering) as told,
    ):
        run_id = third.http.get(f"/sessions/{session}/runs").json()["results"][1]["run_id"]
        third.http.post(f"/sessions/{session}/cancel", json={"run_id": run_id})
        assert list(events)[-1]["type"] == "cancelled"
        assert text_of(list(told)) == FIVE


def test_it_is_the_same_by_websocket_and_get(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with running(client_of_site, session), open_socket(site, session) as socket, site.client() as other:
        send(socket, type="chat", message=SHORT, on_busy="reject")
        assert receive_until(socket, "error")[-1]["data"]["code"] == "session_busy"
        query = {"message": SHORT, "on_busy": "reject"}
        assert other.http.get(f"/agent/{session}/chat", params=query).json()["error"]["code"] == "session_busy"
        send(socket, type="chat", message=SHORT, on_busy="interrupt")
        receive_until(socket, "cancelled")
        receive_until(socket, "done")


def test_the_agent_types_own_choice_holds_without_another(client_of_site: Client, site: Site) -> None:
    site.manage(
        "shell",
        "-c",
        "from sessions_app.models import AgentType;"
        "AgentType.objects.get_or_create(name='strict', defaults={'runtime': 'chat', 'on_busy': 'reject'})",
    )
    session = client_of_site.new_session("strict")
    with running(client_of_site, session), site.client() as other:
        assert other.ask(session, SHORT)["error"]["code"] == "session_busy"
        assert post(other, session, "interrupt").json()["response"] == FIVE


@pytest.mark.parametrize("on_busy", ["shove", 7, ["reject"]])
def test_what_is_none_of_them_is_refused(client_of_site: Client, site: Site, on_busy: Any) -> None:
    session = client_of_site.new_session()
    refused = post(client_of_site, session, on_busy)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    with open_socket(site, session) as socket:
        send(socket, type="chat", message="hi", on_busy=on_busy)
        assert receive_until(socket, "error")[-1]["data"]["code"] == "invalid_request"

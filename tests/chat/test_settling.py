"""A run that waits for a person to say what became of its tool."""

from typing import Any

import pytest

from tests.site import Client, Site

_PARK = """
import json
from datetime import timedelta
from django.contrib.auth.models import User
from django.utils import timezone
from sessions_app.models import Message, Run, ToolCall
from sessions_app.services.sessions import create_session
session = create_session(owner=User.objects.get(username="admin"), agent_type="demo")
session.epoch, session.next_turn = 1, 2
session.save()
run = Run.objects.create(session=session, turn=1, status="awaiting_approval", epoch=1, started_at=timezone.now())
call = {"id": "c1", "name": "calculator", "arguments": {"expression": "2+3"}}
Message.objects.create(session=session, run=run, turn=1, position=0, role="user", content="What is 2+3?")
Message.objects.create(session=session, run=run, turn=1, position=1, role="assistant", tool_calls=[call])
ToolCall.objects.create(
    run=run, call_id="c1", tool="calculator", arguments=call["arguments"], idempotency_key="k", status="unknown")
print("parked", session.pk, run.pk)
"""


@pytest.fixture
def parked(site: Site) -> tuple[str, str]:
    """(session, run)"""
    session, run = site.manage("shell", "-v", "0", "-c", _PARK).split("parked")[1].split()
    return session, run


def settle(client: Client, run: str, call_id: str = "c1", **body: Any) -> Any:
    return client.http.post(f"/runs/{run}/tool_calls/{call_id}/settle", json=body)


def result_of(client: Client, session: str) -> dict[str, Any]:
    with client.stream("GET", f"/sessions/{session}/events", params={"after": "0-0"}) as events:
        found = []
        for event in events:
            found.append(event)
            if event["type"] == "done":
                break
    return next(event for event in found if event["type"] == "tool_result")


def test_it_is_listed_until_it_is_settled(client_of_site: Client, parked: tuple[str, str]) -> None:
    session, run = parked
    (waiting,) = client_of_site.http.get(f"/sessions/{session}/approvals").json()
    assert (waiting["run_id"], waiting["tool_call_id"], waiting["tool"]) == (run, "c1", "calculator")
    assert waiting["args"] == {"expression": "2+3"}
    assert settle(client_of_site, run, decision="happened", result=55).json() == {"status": "queued"}
    assert client_of_site.http.get(f"/sessions/{session}/approvals").json() == []
    again = settle(client_of_site, run, decision="rerun")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "tool_call_not_open")


@pytest.mark.parametrize(
    ("body", "result", "is_error"),
    [
        ({"decision": "happened", "result": 55}, 55, False),
        ({"decision": "happened"}, "It took effect.", False),
        ({"decision": "rerun"}, 5, False),
        ({"decision": "unknown"}, "The outcome is unknown", True),
    ],
)
def test_the_agent_goes_on_with_what_was_decided(
    client_of_site: Client, parked: tuple[str, str], body: dict[str, Any], result: Any, is_error: bool
) -> None:
    session, run = parked
    assert settle(client_of_site, run, **body).status_code == 200
    told = result_of(client_of_site, session)
    assert told["is_error"] is is_error
    assert told["result"] == result or str(told["result"]).startswith(str(result))
    assert client_of_site.http.get(f"/runs/{run}").json()["status"] == "succeeded"
    messages = client_of_site.http.get(f"/sessions/{session}/history").json()["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]


def test_what_cannot_be_settled(client_of_site: Client, stranger: Client, parked: tuple[str, str]) -> None:
    session, run = parked
    assert settle(client_of_site, run, decision="maybe").status_code == 400
    assert settle(client_of_site, run).status_code == 400
    assert settle(client_of_site, run, "c9", decision="rerun").json()["error"]["code"] == "tool_call_not_found"
    assert settle(stranger, run, decision="rerun").json()["error"]["code"] == "run_not_found"
    assert stranger.http.get(f"/sessions/{session}/approvals").status_code == 404


def test_a_parked_run_is_cancelled_at_once(client_of_site: Client, parked: tuple[str, str]) -> None:
    session, run = parked
    answer = client_of_site.http.post(f"/sessions/{session}/cancel")
    assert (answer.status_code, answer.json()) == (200, {"status": "cancelled"})
    assert client_of_site.http.get(f"/runs/{run}").json()["status"] == "cancelled"
    assert settle(client_of_site, run, decision="rerun").status_code == 409
    assert client_of_site.ask(session, "Count to 2")["response"] == "1 2."

"""A tool that needs a person's approval: its run waits without a worker, and goes on as was decided."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.chat.test_websocket import open_socket, receive_until, send
from tests.site import Client, Site, text_of

_MAKE = """
from sessions_app.models import AgentType
common = {"runtime": "chat", "tools": ["send_mail", "calculator", "produce", "slow"]}
AgentType.objects.create(name="mailer", **common)
AgentType.objects.create(name="mailer-free", approval_policy="none", **common)
AgentType.objects.create(name="mailer-strict", approval_policy="all", **common)
for policy in ("deny", "continue", "halt"):
    AgentType.objects.create(
        name=f"expiring-{policy}", approval_timeout_seconds=1, on_approval_expiry=policy, **common)
"""
MAIL = '[[tool=send_mail args={"to": "a@b.c", "subject": "Hi"}]]'


@pytest.fixture(scope="module")
def agents(site: Site) -> None:
    site.manage("shell", "-v", "0", "-c", _MAKE)


@pytest.fixture
def client(agents: None, client_of_site: Client) -> Client:
    return client_of_site


def parked(client: Client, message: str = MAIL, agent: str = "mailer") -> tuple[str, dict[str, Any], list[Any]]:
    """(session, the answer so far, its approvals)"""
    session = client.new_session(agent)
    answer = client.ask(session, message)
    assert answer["status"] == "awaiting_approval", answer
    return session, answer, answer["approvals"]


def settle(client: Client, approval: dict[str, Any], **body: Any) -> Any:
    return client.http.post(f"/runs/{approval['run_id']}/tool_calls/{approval['tool_call_id']}/settle", json=body)


def rest_of(client: Client, session: str) -> list[dict[str, Any]]:
    """All events of a session's first turn."""
    found: list[dict[str, Any]] = []
    with client.stream("GET", f"/sessions/{session}/events", params={"after": "0-0"}) as events:
        for event in events:
            found.append(event)
            if event["type"] in ("done", "error", "cancelled"):
                return found
    raise AssertionError("no end")


def results(events: list[dict[str, Any]]) -> list[Any]:
    return [event["result"] for event in events if event["type"] == "tool_result"]


def test_the_tool_runs_once_it_is_approved(client: Client, site: Site) -> None:
    session, answer, (approval,) = parked(client)
    assert approval["reason"] == "approval"
    assert approval["decisions"] == ["approved", "denied"]
    assert approval["args"] == {"to": "a@b.c", "subject": "Hi"}
    call = f"/runs/{answer['run_id']}/tool_calls/{approval['tool_call_id']}"
    assert client.http.get(call).json()["status"] == "awaiting"
    assert client.http.get(f"/sessions/{session}/approvals").json() == [approval]
    assert settle(client, approval, decision="approved").json() == {"status": "queued"}
    events = rest_of(client, session)
    assert results(events) == ["sent 'Hi' to a@b.c with 0 attachments"]
    assert "Tool results: sent 'Hi' to a@b.c" in text_of(events)
    settled = client.http.get(call).json()
    assert (settled["status"], settled["cost"]) == ("finished", 0.25)
    (decision,) = settled["decisions"]
    assert (decision["decision"], decision["decided_by"]) == ("approved", "admin")
    run = client.http.get(f"/runs/{answer['run_id']}").json()
    assert (run["status"], run["attempt"], run["agent_version"]) == ("succeeded", 1, 1)


def test_a_denial_is_told_to_the_model_with_its_reason(client: Client) -> None:
    session, answer, (approval,) = parked(client)
    assert settle(client, approval, decision="denied", reason="not on Sundays").status_code == 200
    events = rest_of(client, session)
    (result,) = [event for event in events if event["type"] == "tool_result"]
    assert result["is_error"]
    assert result["result"] == "This call was denied: not on Sundays"
    assert events[-1]["type"] == "done"
    call = client.http.get(f"/runs/{answer['run_id']}/tool_calls/{approval['tool_call_id']}").json()
    assert (call["status"], call["started_at"]) == ("denied", None)


def test_the_arguments_may_be_changed(client: Client, fake: Any) -> None:
    session, answer, (approval,) = parked(client)
    settle(client, approval, decision="approved", args={"to": "x@y.z", "subject": "Other"})
    assert results(rest_of(client, session)) == ["sent 'Other' to x@y.z with 0 attachments"]
    call = client.http.get(f"/runs/{answer['run_id']}/tool_calls/{approval['tool_call_id']}").json()
    assert call["args"] == {"to": "a@b.c", "subject": "Hi"}
    assert call["edited_args"] == call["decisions"][0]["args"] == {"to": "x@y.z", "subject": "Other"}
    asked = fake.requests()[-1]["body"]["messages"]
    shown = next(message for message in asked if message.get("tool_calls"))["tool_calls"][0]["function"]["arguments"]
    assert json.loads(shown) == {"to": "x@y.z", "subject": "Other"}


def test_changed_arguments_that_do_not_fit_reach_the_model_as_an_error(client: Client) -> None:
    session, _, (approval,) = parked(client)
    settle(client, approval, decision="approved", args={"to": "nobody"})
    assert results(rest_of(client, session))[0].startswith("The arguments do not fit: to:")


def test_several_calls_wait_together_while_the_others_run(client: Client) -> None:
    mails = [f'tool=send_mail args={{"to": "{number}@a"}}' for number in (1, 2)]
    calls = f'[[{mails[0]} tool=calculator args={{"expression": "2*3"}} {mails[1]}]]'
    session, _, approvals = parked(client, calls)
    assert [approval["args"]["to"] for approval in approvals] == ["1@a", "2@a"]
    assert settle(client, approvals[1], decision="approved").json() == {"status": "awaiting_approval"}
    again = settle(client, approvals[1], decision="denied")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "tool_call_not_open")
    assert settle(client, approvals[0], decision="denied").json() == {"status": "queued"}
    events = rest_of(client, session)
    assert results(events)[0] == 6
    assert sorted(map(str, results(events)[1:])) == [
        "This call was denied: no reason was given.",
        "sent '' to 2@a with 0 attachments",
    ]
    assert events[-1]["type"] == "done"


def test_a_call_that_cannot_run_is_not_asked_about(client: Client) -> None:
    session = client.new_session("mailer")
    answer = client.ask(session, '[[tool=send_mail args={"to": "nobody"}]]')
    assert answer["status"] == "succeeded"
    assert answer["tool_calls"][0]["result"].startswith("The arguments do not fit: to:")


def test_an_agent_type_may_ask_about_all_or_nothing(client: Client) -> None:
    assert client.ask(client.new_session("mailer-free"), MAIL)["status"] == "succeeded"
    calculation = '[[tool=calculator args={"expression": "2*3"}]]'
    assert client.ask(client.new_session("mailer-strict"), calculation)["status"] == "succeeded"
    assert client.ask(client.new_session("mailer-strict"), MAIL)["status"] == "awaiting_approval"


@pytest.mark.parametrize(
    ("policy", "result", "end"),
    [
        ("deny", "This call was denied: nobody decided about it in time.", "done"),
        ("continue", "sent 'Hi' to a@b.c with 0 attachments", "done"),
        ("halt", None, "error"),
    ],
)
def test_an_approval_that_nobody_gives_expires(client: Client, policy: str, result: str | None, end: str) -> None:
    session, answer, (approval,) = parked(client, agent=f"expiring-{policy}")
    assert approval["expires_at"]
    events = rest_of(client, session)
    assert results(events) == ([result] if result else [])
    assert events[-1]["type"] == end
    if end == "error":
        assert events[-1]["code"] == "approval_expired"
    call = client.http.get(f"/runs/{answer['run_id']}/tool_calls/{approval['tool_call_id']}").json()
    if policy == "halt":
        assert call["status"] == "skipped"
    else:
        assert call["decisions"][0]["decided_by"] is None
    assert client.ask(session, "Hello")["status"] == "succeeded"


def test_it_can_be_decided_by_websocket(client: Client, site: Site) -> None:
    session = client.new_session("mailer")
    with open_socket(site, session) as socket:
        send(socket, type="chat", message=MAIL)
        question = receive_until(socket, "approval_required")[-1]["data"]
        assert question["decisions"] == ["approved", "denied"]
        names = {"run_id": question["run_id"], "tool_call_id": question["tool_call_id"]}
        send(socket, type="settle", **names, decision="maybe")
        assert receive_until(socket, "error")[-1]["data"]["code"] == "invalid_request"
        send(socket, type="settle", **names, decision="happened")
        assert receive_until(socket, "error")[-1]["data"]["code"] == "invalid_request"
        send(socket, type="settle", **{**names, "tool_call_id": "other"}, decision="approved")
        assert receive_until(socket, "error")[-1]["data"]["code"] == "tool_call_not_found"
        send(socket, type="settle", **names, decision="approved")
        types = {frame["type"] for frame in receive_until(socket, "done")}
        assert {"settled", "tool_result", "done"} <= types


def test_a_run_of_another_session_is_not_decided_by_websocket(client: Client, site: Site) -> None:
    _, _, (approval,) = parked(client)
    with open_socket(site, client.new_session("mailer")) as socket:
        names = {"run_id": approval["run_id"], "tool_call_id": approval["tool_call_id"]}
        send(socket, type="settle", **names, decision="approved")
        assert receive_until(socket, "error")[-1]["data"]["code"] == "run_not_found"


def test_only_what_fits_is_accepted(client: Client, stranger: Client) -> None:
    _, _, (approval,) = parked(client)
    assert settle(client, approval, decision="denied", args={"to": "a@b"}).status_code == 400
    assert settle(client, approval, decision="approved", result=1).status_code == 400
    assert settle(client, approval, decision="approved", args="no object").status_code == 400
    assert settle(stranger, approval, decision="approved").json()["error"]["code"] == "run_not_found"
    stranger_reads = stranger.http.get(f"/runs/{approval['run_id']}/tool_calls/{approval['tool_call_id']}")
    assert stranger_reads.status_code == 404


def test_a_run_that_waits_needs_no_worker(client: Client, site: Site) -> None:
    """All workers are killed meanwhile; a new one goes on where the question was asked."""
    session, _, (approval,) = parked(client)
    workers = [child for child in psutil.Process(site.process.pid).children() if "runs" in child.cmdline()]
    assert workers
    for worker in workers:
        worker.kill()
    assert settle(client, approval, decision="approved").status_code == 200
    assert results(rest_of(client, session)) == ["sent 'Hi' to a@b.c with 0 attachments"]


def test_two_people_decide_at_once_and_one_of_them_wins(client: Client) -> None:
    session, _, (approval,) = parked(client)
    with ThreadPoolExecutor(8) as pool:
        decisions = ["approved", "denied"] * 4
        answers = list(pool.map(lambda decision: settle(client, approval, decision=decision).status_code, decisions))
    assert sorted(answers) == [200] + [409] * 7
    won = decisions[answers.index(200)]
    events = rest_of(client, session)
    assert [event["is_error"] for event in events if event["type"] == "tool_result"] == [won == "denied"]


def test_a_run_that_waits_keeps_the_version_that_it_began_with(client: Client, site: Site) -> None:
    site.manage(
        "shell",
        "-v",
        "0",
        "-c",
        "from sessions_app.models import AgentType as A; A.objects.create(name='edited', runtime='chat', "
        "tools=['send_mail'])",
    )
    session, answer, (approval,) = parked(client, agent="edited")
    edit = "from sessions_app.models import AgentType as A; a = A.objects.get(name='edited'); a.tools = []; a.save()"
    site.manage("shell", "-v", "0", "-c", edit)
    settle(client, approval, decision="approved")
    assert results(rest_of(client, session)) == ["sent 'Hi' to a@b.c with 0 attachments"]
    assert client.http.get(f"/runs/{answer['run_id']}").json()["agent_version"] == 1
    later = client.ask(session, MAIL)
    assert later["tool_calls"][0]["result"] == "There is no tool 'send_mail'."
    assert client.http.get(f"/runs/{later['run_id']}").json()["agent_version"] == 2


def test_a_large_result_is_stored_and_referenced(client: Client) -> None:
    session = client.new_session("mailer")
    answer = client.ask(session, '[[tool=produce args={"characters": 100000}]]')
    (call,) = answer["tool_calls"]
    assert call["result"]["stored"] is True
    assert call["result"]["size_bytes"] == 100_000
    assert len(call["result"]["preview"]) == 2_000
    stored = client.http.get(f"/runs/{answer['run_id']}/tool_calls/{call['tool_call_id']}").json()
    assert len(stored["result"]) == 100_000


def test_a_tool_that_never_returns_and_an_unknown_one_end_in_results(client: Client) -> None:
    answer = client.ask(client.new_session("mailer"), "[[tool=slow tool=nonsense]]")
    assert answer["status"] == "succeeded"
    assert {call["result"] for call in answer["tool_calls"]} == {
        "The tool slow did not answer in time.",
        "There is no tool 'nonsense'.",
    }


def test_malformed_arguments_end_in_a_result(client: Client) -> None:
    answer = client.ask(client.new_session("mailer"), r'[[tool=calculator args="{\"expression\": 2+"]]')
    assert answer["tool_calls"][0]["result"].startswith("The arguments are not a JSON object")


def test_an_endless_loop_ends_at_the_step_limit(client: Client) -> None:
    answer = client.ask(client.new_session("mailer"), '[[rounds=99 tool=calculator args={"expression": "1"}]]')
    assert answer["error"]["code"] == "step_limit"


def test_the_demo_agent_shows_an_approval_without_a_model(client: Client) -> None:
    session, _, (approval,) = parked(client, "Note: the milk is in the fridge", agent="demo")
    assert (approval["tool"], approval["args"]) == ("save_note", {"text": "the milk is in the fridge"})
    settle(client, approval, decision="approved")
    assert "the milk is in the fridge" in text_of(rest_of(client, session))
    assert client.http.get(f"/sessions/{session}/state").json() == {"notes": ["the milk is in the fridge"]}


def test_the_admin_approves_and_denies(client: Client, logged_in: httpx.Client) -> None:
    for action, status in (("settle_as_approved", "finished"), ("settle_as_denied", "denied")):
        session, answer, (approval,) = parked(client)
        listed = logged_in.get("/admin/sessions_app/toolcall/?waits=1")
        pk = re.search(rf'value="(\d+)"[^>]*>(?:(?!</tr>).)*{answer["run_id"][:8]}', listed.text, re.DOTALL)
        assert pk, "it is not listed"
        form = {"action": action, "_selected_action": pk[1], "csrfmiddlewaretoken": logged_in.cookies["csrftoken"]}
        headers = {"Referer": f"{logged_in.base_url}/admin/"}
        assert "1 settled" in logged_in.post("/admin/sessions_app/toolcall/?waits=1", data=form, headers=headers).text
        assert rest_of(client, session)[-1]["type"] == "done"
        call = client.http.get(f"/runs/{answer['run_id']}/tool_calls/{approval['tool_call_id']}").json()
        assert (call["status"], call["decisions"][0]["decided_by"]) == (status, "admin")


def test_the_admin_changes_the_arguments(client: Client, logged_in: httpx.Client) -> None:
    session, answer, _ = parked(client)
    listed = logged_in.get("/admin/sessions_app/toolcall/?waits=1").text
    page = re.findall(r'href="(/admin/sessions_app/toolcall/\d+/decide/)"', listed)[0]  # the newest is the first
    shown = logged_in.get(page)
    assert answer["run_id"] in shown.text
    form = {"decision": "approved", "arguments": "[1]", "csrfmiddlewaretoken": logged_in.cookies["csrftoken"]}
    headers = {"Referer": f"{logged_in.base_url}{page}"}
    assert "The arguments are a JSON object." in logged_in.post(page, data=form, headers=headers).text
    form["arguments"] = '{"to": "x@y.z"}'
    settled = logged_in.post(page, data=form, headers=headers).text
    assert "Settled send_mail as approved." in settled, re.findall(r"<li class=.*?</li>", settled)
    assert results(rest_of(client, session)) == ["sent '' to x@y.z with 0 attachments"]
    again = logged_in.get("/admin/sessions_app/toolcall/999999999/decide/")
    assert again.status_code == 404

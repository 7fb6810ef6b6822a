"""Budgets through the whole system: what does not fit stops before its call, or waits and goes on."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, running_site, text_of

WAIT_SECONDS = 30.0

_MAKE = """
from monitoring.models import Price, Quota
from sessions_app.models import AgentType

def budget(name, limit, **fields):
    fields = {"measure": "tokens", "period": "total", "scope": "agent_type", **fields}
    agent_type = AgentType.objects.create(name=name, runtime="chat", tools=["produce"])
    quota = Quota(name=name, limit=limit, agent_type=agent_type, **fields)
    quota.full_clean()
    quota.save()

budget("rejecting", 400, action="reject")
budget("shrinking", 300, action="reject")
budget("warning", 500, action="reject", warn_percent=50)
budget("paid", "0.02", measure="cost")
Price.objects.create(model="fake-model", input_price=10, output_price=100)
AgentType.objects.create(name="pausing", runtime="chat", tools=["produce"])
AgentType.objects.create(name="free", runtime="chat")
"""


@pytest.fixture(scope="module")
def limited_site(running_fake: FakeOpenAIProcess) -> Iterator[Site]:
    env = {
        **running_fake.site_env,
        "SWEEP_SECONDS": "1",
        "MAX_TOKENS_PER_SESSION": "1000",
        "MIN_OUTPUT_TOKENS": "20",
        "EXTRA_AGENT_TOOLS": "produce=tests.fakes.own_tools.produce",
    }
    with running_site(**env) as site:
        site.manage("shell", "-v", "0", "-c", _MAKE)
        yield site


@pytest.fixture
def client(limited_site: Site, fake: FakeOpenAIProcess) -> Iterator[Client]:
    with limited_site.client() as client:
        yield client


def python(site: Site, code: str) -> str:
    return site.manage("shell", "-v", "0", "-c", code).strip()


def budgets(client: Client, session: str) -> dict[str, dict[str, Any]]:
    found = client.http.get(f"/sessions/{session}/budgets").json()
    return {each["name"]: each for each in found}


def streamed(fake: FakeOpenAIProcess) -> list[dict[str, Any]]:
    return [request["body"] for request in fake.requests() if request["body"].get("stream")]


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.1)
    return found


def ledger_is_right(site: Site) -> bool:
    code = "from monitoring.ledger import differences; print('wrong', differences())"
    return "wrong []" in python(site, code)


def test_a_call_that_does_not_fit_is_not_made(client: Client, fake: FakeOpenAIProcess, limited_site: Site) -> None:
    session = client.new_session("rejecting")
    assert client.chat(session, "[[tokens=200]]")[-1]["type"] == "done"
    made = len(streamed(fake))
    events = client.chat(session, "word " * 250)
    assert events[-1]["type"] == "error"
    assert events[-1]["code"] == "budget_exceeded"
    assert "rejecting (400 tokens)" in events[-1]["message"]
    assert len(streamed(fake)) == made
    answer = client.http.post(f"/sessions/{session}/chat", json={"message": "word " * 250, "stream": False})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "budget_exceeded")
    seen = budgets(client, session)["rejecting"]
    assert float(seen["reserved"]) == 0
    assert 0 < float(seen["used"]) <= 400
    assert ledger_is_right(limited_site)


def test_an_answer_gets_what_is_left(client: Client, fake: FakeOpenAIProcess) -> None:
    session = client.new_session("shrinking")
    events = client.chat(session, "[[tokens=500]]")
    (request,) = streamed(fake)
    assert 200 < request["max_tokens"] < 300
    assert events[-1]["type"] == "done"
    assert events[-1]["finish_reason"] == "length"
    assert len(text_of(events).split()) == request["max_tokens"]
    assert float(budgets(client, session)["shrinking"]["used"]) <= 300


def test_those_who_watch_are_warned_once(client: Client) -> None:
    session = client.new_session("warning")
    events = client.chat(session, "[[tokens=240]]") + client.chat(session, "[[tokens=1]]")
    warnings = [event for event in events if event.get("status") == "budget_warning"]
    told = [(each["budget"], each["measure"], each["limit"]) for each in warnings]
    assert told.count(("warning", "tokens", "500")) == 1


def test_money_is_a_budget_too(client: Client, limited_site: Site) -> None:
    session = client.new_session("paid")
    events = client.chat(session, "[[tokens=500]]")
    assert events[-1]["finish_reason"] == "length"
    used = budgets(client, session)["paid"]
    assert 0.015 < float(used["used"]) <= 0.02
    runs = client.http.get(f"/sessions/{session}/runs").json()["results"]
    assert float(runs[0]["cost"]) == float(used["used"])
    assert ledger_is_right(limited_site)


def test_a_run_that_meets_its_sessions_budget_waits_and_goes_on(
    client: Client, fake: FakeOpenAIProcess, limited_site: Site
) -> None:
    """Between two steps: what was done is not done again."""
    session = client.new_session("pausing")
    message = '[[tool=produce args={"characters": 3000} rounds=2 tokens=5]]'
    answer = client.http.post(f"/sessions/{session}/chat", json={"message": message, "stream": False})
    assert answer.status_code == 202, answer.text
    assert answer.json()["status"] == "awaiting_approval"
    question = answer.json()["budget"]
    assert (question["reason"], question["budget"]) == ("budget", "session-tokens")
    steps = len(streamed(fake))

    url = f"/sessions/{session}/budgets/{question['budget_id']}/raise"
    refused = client.http.post(url, json={"amount": 5_000})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "budget_not_raisable")
    let_owners = "Quota.objects.filter(name='session-tokens').update(owner_limit=20_000)"
    python(limited_site, f"from monitoring.models import Quota; {let_owners}")
    for amount in (0, -5, "many", 10**9, None):
        assert client.http.post(url, json={"amount": amount}).status_code == 400
    raised = client.http.post(url, json={"amount": 15_000})
    assert raised.status_code == 200, raised.text
    assert float(raised.json()["limit"]) == 16_000

    events = client.events_after(session, "0-0", until=wait_until(lambda: _end_of(client, session)))
    assert events[-1]["type"] == "done"
    questions = [event for event in events if event["type"] == "approval_required"]
    assert [event["reason"] for event in questions] == ["budget"]
    results = [event["tool_call_id"] for event in events if event["type"] == "tool_result"]
    assert len(results) == len(set(results)) == 2
    assert len(streamed(fake)) == 3, "no step is made twice"
    assert 0 < steps < 3
    assert ledger_is_right(limited_site)
    audit = python(limited_site, "from monitoring.models import QuotaChange as C; print(C.objects.latest('pk').after)")
    assert "16000" in audit


def _end_of(client: Client, session: str) -> str:
    runs = client.http.get(f"/sessions/{session}/runs").json()["results"]
    return str(runs[0]["cursor"])


def test_a_paused_run_can_be_cancelled(client: Client) -> None:
    session = client.new_session("pausing")
    assert client.ask(session, "word " * 1_200)["status"] == "awaiting_approval"
    assert client.http.post(f"/sessions/{session}/cancel").json() == {"status": "cancelled"}
    assert client.http.get(f"/sessions/{session}/runs").json()["results"][0]["status"] == "cancelled"


def test_a_cancelled_call_has_cost_its_prompt(client: Client, fake: FakeOpenAIProcess, limited_site: Site) -> None:
    session = client.new_session("free")
    with client.stream("POST", f"/sessions/{session}/chat", json={"message": "[[hang]] " + "word " * 50}) as events:
        next(events)
        fake.wait_for_request(lambda request: "[[hang]]" in json.dumps(request["body"]))
        assert float(budgets(client, session)["session-tokens"]["reserved"]) > 60
        client.http.post(f"/sessions/{session}/cancel")
        assert [event["type"] for event in events][-1] == "cancelled"
    seen = budgets(client, session)["session-tokens"]
    assert float(seen["reserved"]) == 0
    assert 50 < float(seen["used"]) < 100
    assert ledger_is_right(limited_site)


def test_a_call_that_failed_costs_nothing(client: Client, limited_site: Site) -> None:
    session = client.new_session("free")
    assert client.chat(session, "[[status=401]]")[-1]["type"] == "error"
    seen = budgets(client, session)["session-tokens"]
    assert (float(seen["used"]), float(seen["reserved"])) == (0, 0)


def test_strangers_see_no_budgets(client: Client, limited_site: Site) -> None:
    session = client.new_session("free")
    code = (
        "from django.contrib.auth.models import User; from sessions_app.services.tokens import create_token;"
        "print('token', create_token(owner=User.objects.create_user('nosy'), name='t')[1])"
    )
    with limited_site.client(python(limited_site, code).split("token ")[1]) as nosy:
        assert nosy.http.get(f"/sessions/{session}/budgets").status_code == 404
        assert nosy.http.post(f"/sessions/{session}/budgets/1/raise", json={"amount": 1}).status_code == 404
    assert client.http.post(f"/sessions/{session}/budgets/x/raise", json={"amount": 1}).status_code == 404
    assert client.http.post(f"/sessions/{session}/budgets/99999/raise", json={"amount": 1}).status_code == 404

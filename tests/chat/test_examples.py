"""The examples of docs/examples, each served by a site: what a framework does reaches the client without loss."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chat.test_approvals import rest_of, results, settle
from tests.fakes.processes import PROJECT, FakeOpenAIProcess
from tests.site import Client, Site, running_site, text_of

FRAMEWORKS = ["pydantic", "langgraph", "openai"]
_MAKE = """
from sessions_app.models import AgentType
for name in ("echo", "weather-pydantic", "weather-langgraph", "weather-openai"):
    AgentType.objects.create(name=name, runtime=name, system_prompt="Be brief.")
AgentType.objects.create(name="host", runtime="chat", tools=["roll_dice", "send_invitation"])
"""


@pytest.fixture(scope="module")
def examples(running_fake: FakeOpenAIProcess) -> Iterator[Site]:
    modules = {"weather-pydantic": "pydantic_ai_agent", "weather-langgraph": "langgraph_agent"}
    modules |= {"weather-openai": "openai_agents_agent"}
    runtimes = [f"{name}=docs.examples.{module}.agent" for name, module in modules.items()]
    tools = [f"{name}=docs.examples.tools.{name}" for name in ("roll_dice", "send_invitation")]
    env = {
        **running_fake.site_env,
        "EXTRA_AGENT_RUNTIMES": ",".join([*runtimes, "echo=docs.examples.generator_agent.echo"]),
        "EXTRA_AGENT_TOOLS": ",".join(tools),
    }
    with running_site(**env) as site:
        site.manage("shell", "-v", "0", "-c", _MAKE)
        yield site


@pytest.fixture
def client(examples: Site) -> Iterator[Client]:
    with examples.client() as client:
        yield client


def test_a_generator_is_an_agent(client: Client) -> None:
    events = client.chat(client.new_session("echo"), "Hello there")
    assert text_of(events, "thought") == "I shall repeat that."
    assert text_of(events) == "Hello there "


def test_tools_of_ones_own(client: Client) -> None:
    session = client.new_session("host")
    answer = client.ask(session, '[[tool=roll_dice args={"sides": 2, "dice": 3}]]')
    assert len(answer["tool_calls"][0]["result"]) == 3
    answer = client.ask(session, '[[tool=send_invitation args={"guest": "Ann", "evening": "Friday"}]]')
    (approval,) = answer["approvals"]
    settle(client, approval, decision="approved")
    with client.stream("GET", f"/sessions/{session}/events", params={"after": "0-0"}) as events:
        told = next(event for event in events if event.get("tool") == "send_invitation" and "result" in event)
    assert told["result"] == "Ann is invited for Friday."


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_text_and_usage_come_through(client: Client, framework: str) -> None:
    session = client.new_session(f"weather-{framework}")
    events = client.chat(session, "[[tokens=40]]")
    assert text_of(events).split() == [f"tok{number}" for number in range(40)]
    assert sum(event["type"] == "response" for event in events) >= 1
    usage = events[-1]["usage"]
    assert usage["output_tokens"] == 40
    assert usage["input_tokens"] >= 2


@pytest.mark.parametrize("framework", ["pydantic", "openai"])  # ChatOpenAI drops what it does not know
def test_thoughts_come_through(client: Client, framework: str) -> None:
    events = client.chat(client.new_session(f"weather-{framework}"), "[[reasoning=3 tokens=2]]")
    assert text_of(events, "thought") == "think0 think1 think2 "
    assert text_of(events).split() == ["tok0", "tok1"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_calls_and_results_come_through_and_the_next_turn_knows_them(
    client: Client, fake: FakeOpenAIProcess, framework: str
) -> None:
    session = client.new_session(f"weather-{framework}")
    calls = 'tool=forecast args={"city": "Rome"} tool=forecast args={"city": "Oslo"}'
    events = client.chat(session, f"[[{calls}]]")
    assert [event["args"] for event in events if event["type"] == "tool_call"] == [{"city": "Rome"}, {"city": "Oslo"}]
    told = [event for event in events if event["type"] == "tool_result"]
    assert {event["tool"] for event in told} == {"forecast"}
    assert {event["tool_call_id"] for event in told} == {
        event["tool_call_id"] for event in events if event["type"] == "tool_call"
    }
    assert all("clear" in str(event["result"]) for event in told)
    assert events[-1]["type"] == "done"
    assert "Tool results" in text_of(events)
    client.ask(session, "And now?")
    asked = fake.requests()[-1]["body"]["messages"]
    roles = [message["role"] for message in asked]
    assert roles == ["system", "user", "assistant", "tool", "tool", "assistant", "user"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("verdict", "result"),
    [
        ({"decision": "approved"}, "booked in Rome"),
        ({"decision": "approved", "args": {"city": "Oslo"}}, "booked in Oslo"),
        ({"decision": "denied", "reason": "It rains."}, "This call was denied: It rains."),
    ],
)
def test_an_approval_parks_the_run_and_lets_it_go_on(
    client: Client, framework: str, verdict: dict[str, Any], result: str
) -> None:
    session = client.new_session(f"weather-{framework}")
    answer = client.ask(session, '[[tool=book_picnic args={"city": "Rome"}]]')
    assert answer["status"] == "awaiting_approval", answer
    (approval,) = answer["approvals"]
    assert (approval["tool"], approval["args"]) == ("book_picnic", {"city": "Rome"})
    assert settle(client, approval, **verdict).json() == {"status": "queued"}
    events = rest_of(client, session)
    assert results(events) == [result], events
    assert events[-1]["type"] == "done"
    assert "Tool results" in text_of(events)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_cancel_closes_the_request_upstream(client: Client, fake: FakeOpenAIProcess, framework: str) -> None:
    session = client.new_session(f"weather-{framework}")
    with client.stream("POST", f"/sessions/{session}/chat", json={"message": "[[tokens=900 delay_ms=20]]"}) as events:
        assert next(event for event in events if event["type"] == "response")
        client.http.post(f"/sessions/{session}/cancel")
        assert list(events)[-1]["type"] == "cancelled"
    fake.wait_for_request(lambda request: request["client_disconnected"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_model_that_fails_ends_the_run(client: Client, framework: str) -> None:
    events = client.chat(client.new_session(f"weather-{framework}"), "[[status=400]]")
    assert events[-1]["type"] == "error"


def test_the_guide_leads_to_an_agent_with_an_approval(tmp_path: Path) -> None:
    """The code blocks of docs/agents.md, as a reader puts them into a file of his own."""
    guide = (PROJECT / "docs" / "agents.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "games.py").write_text("\n\n".join(blocks))
    settings = dict(line.split("=", 1) for line in re.findall(r"^EXTRA_.*$", guide, re.MULTILINE))
    with running_site(PYTHONPATH=str(tmp_path), **settings) as site, site.client() as client:
        fields = "name='host', runtime='host', tools=['send_invitation']"
        code = f"from sessions_app.models import AgentType; AgentType.objects.create({fields})"
        site.manage("shell", "-v", "0", "-c", code)
        session = client.new_session("host")
        (approval,) = client.ask(session, "Ann")["approvals"]
        assert approval["args"] == {"guest": "Ann", "evening": "Friday"}
        settle(client, approval, decision="approved")
        assert text_of(rest_of(client, session)).endswith("Done: Ann is invited for Friday.")

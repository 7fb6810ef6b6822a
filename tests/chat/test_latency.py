"""Work that is done ahead: on a typing hint, and tools that start while the model still writes."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chat.test_websocket import open_socket, receive_until, send
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, running_site

_MAKE = """
from sessions_app.models import AgentType
AgentType.objects.create(name="eager", runtime="chat", tools=["produce", "send_mail"], eager_tools=["produce"])
AgentType.objects.create(name="needs-gpu", runtime="demo", required_capabilities=["gpu"])
AgentType.objects.create(name="needs-both", runtime="demo", required_capabilities=["gpu", "eu"])
AgentType.objects.create(name="needs-moon", runtime="demo", required_capabilities=["moon"])
"""


@pytest.fixture(scope="module")
def quick(running_fake: FakeOpenAIProcess) -> Iterator[Site]:
    env = {"AGENT_MODEL": "fake-model", "OPENAI_BASE_URL": running_fake.base_url, "WORKER_CAPABILITIES": "gpu,eu"}
    env["EXTRA_AGENT_TOOLS"] = "produce=tests.fakes.own_tools.produce,send_mail=tests.fakes.own_tools.send_mail"
    with running_site(**env) as site:
        site.manage("shell", "-v", "0", "-c", _MAKE)
        yield site


@pytest.fixture
def client(quick: Site) -> Iterator[Client]:
    with quick.client() as client:
        yield client


def counted(client: Client, kind: str, outcome: str) -> float:
    for line in client.http.get("/metrics").text.splitlines():
        if line.startswith(f'agentsite_speculation_total{{kind="{kind}",outcome="{outcome}"}}'):
            return float(line.split()[-1])
    return 0.0


def wait_until_counted(client: Client, kind: str, outcome: str, more_than: float) -> None:
    deadline = time.monotonic() + 30.0
    while counted(client, kind, outcome) <= more_than:
        assert time.monotonic() < deadline, f"{kind} {outcome} is not counted"
        time.sleep(0.2)  # between looks; a worker tells with its heartbeat


def send_and_read(socket: Any, message: str) -> str:
    send(socket, type="chat", message=message)
    frames = receive_until(socket, "done")
    return "".join(frame["data"]["content"] for frame in frames if frame["type"] == "response")


def test_a_typing_hint_prepares_the_conversation_that_the_turn_then_uses(
    client: Client, quick: Site, fake: FakeOpenAIProcess
) -> None:
    session = client.new_session("chat")
    client.ask(session, "First")
    before = counted(client, "context", "used")
    with open_socket(quick, session) as socket:
        send(socket, type="typing")
        time.sleep(0.5)  # as long as one types at least; the hint has no answer that could be waited for
        assert "Second" in send_and_read(socket, "Second")
    asked = [message["content"] for message in fake.requests()[-1]["body"]["messages"][1:]]
    assert asked == ["First", "You said: First", "Second"]
    wait_until_counted(client, "context", "used", before)


def test_what_happened_meanwhile_voids_the_preparation(client: Client, quick: Site, fake: FakeOpenAIProcess) -> None:
    session = client.new_session("chat")
    client.ask(session, "First")
    before = counted(client, "context", "wasted")
    with open_socket(quick, session) as socket:
        send(socket, type="typing")
        time.sleep(0.5)  # see above
        client.ask(session, "Second")
        client.ask(session, "Third")
    asked = [message["content"] for message in fake.requests()[-1]["body"]["messages"][1:]]
    assert asked == ["First", "You said: First", "Second", "You said: Second", "Third"]
    with open_socket(quick, session) as socket:
        send(socket, type="typing")
        time.sleep(0.5)  # see above
        run = client.http.get(f"/sessions/{session}/runs").json()["results"][0]["run_id"]
        assert client.http.post(f"/runs/{run}/retry").status_code == 409
        assert "Fourth" in send_and_read(socket, "Fourth")
    assert counted(client, "context", "wasted") >= before


def test_a_turn_that_is_tried_again_is_not_shown_twice(client: Client, quick: Site, fake: FakeOpenAIProcess) -> None:
    session = client.new_session("chat")
    failed = client.ask(session, "[[status=400 times=1]] First")
    with open_socket(quick, session) as socket:
        send(socket, type="typing")
        time.sleep(0.5)  # see above
        answer = client.http.post(f"/runs/{failed['run_id']}/retry", json={"stream": False})
        assert answer.json()["status"] == "succeeded"
    asked = [message["content"] for message in fake.requests()[-1]["body"]["messages"][1:]]
    assert len(asked) == 1


def test_a_tool_starts_while_the_model_still_writes(client: Client) -> None:
    used = counted(client, "tool", "used")
    calls = 'tool=produce args={"characters": 3} tool=produce args={"characters": 4}'
    answer = client.ask(client.new_session("eager"), f"[[{calls} delay_ms=30]]")
    assert sorted(call["result"] for call in answer["tool_calls"]) == ["012", "0123"]
    wait_until_counted(client, "tool", "used", used)


def test_a_tool_that_was_started_for_nothing_is_counted(client: Client) -> None:
    wasted = counted(client, "tool", "wasted")
    calls = 'tool=produce args={"characters": 3} tool=produce args={"characters": 4}'
    answer = client.ask(client.new_session("eager"), f"[[{calls} cut=8 delay_ms=10]]")
    assert answer["error"]["code"] == "model_error"
    wait_until_counted(client, "tool", "wasted", wasted)


def wait_until_free(client: Client) -> None:
    """What nobody can take holds no slot, nor does what has ended."""
    deadline = time.monotonic() + 10
    while 'agentsite_slots{state="held"} 0.0' not in client.http.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_only_a_worker_with_the_capabilities_takes_a_run(client: Client) -> None:
    for agent in ("needs-gpu", "needs-both", "demo"):
        assert client.ask(client.new_session(agent), "Count to 3")["response"] == "1 2 3."
    session = client.new_session("needs-moon")
    with client.stream("POST", f"/sessions/{session}/chat", json={"message": "Count to 3"}) as events:
        message, status = next(events), next(events)
        assert message["type"] == "message"
        assert (status["type"], status["status"], status["reason"]) == ("status", "waiting", "no_worker")
        client.ask(client.new_session("demo"), "Count to 3")  # which comes later, and is done
        wait_until_free(client)
        (run,) = client.http.get(f"/sessions/{session}/runs").json()["results"]
    assert run["status"] == "queued"
    assert client.http.post(f"/sessions/{session}/cancel").json() == {"status": "cancelled"}

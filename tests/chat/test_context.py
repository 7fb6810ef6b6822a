"""Conversations that outgrow their context, through the whole system: what the model is sent, and what people see."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, running_site, text_of

LIMIT, RESERVE = 2_400, 400
WAIT_SECONDS = 60.0

_MAKE = """
from sessions_app.models import AgentType
AgentType.objects.create(name="plain", runtime="chat", system_prompt="Be brief.", summary_model="summarizer")
AgentType.objects.create(name="window", runtime="chat", context_strategy="sliding_window")
AgentType.objects.create(name="halves", runtime="chat", context_shares={"sliding_window": 0.5, "importance": 0.5})
AgentType.objects.create(name="fragile", runtime="chat", summary_model="summarizer-fragile")
AgentType.objects.create(name="crammed", runtime="chat", max_context_tokens=500, system_prompt="rule " * 500)
AgentType.objects.create(name="worker", runtime="chat", tools=["produce"], context_strategy="sliding_window")
"""


@pytest.fixture(scope="module")
def long_site(running_fake: FakeOpenAIProcess) -> Iterator[Site]:
    env = {
        **running_fake.site_env,
        "EMBEDDING_MODEL": "embedder",
        "MODEL_CONTEXT_TOKENS": str(LIMIT),
        "MODEL_RESERVE_TOKENS": str(RESERVE),
        "EXTRA_AGENT_TOOLS": "produce=tests.fakes.own_tools.produce",
    }
    with running_site(**env) as site:
        site.manage("shell", "-v", "0", "-c", _MAKE)
        yield site


@pytest.fixture
def client(long_site: Site, fake: FakeOpenAIProcess) -> Iterator[Client]:
    fake.break_models()
    with long_site.client() as client:
        yield client
    fake.break_models()


def prompt(fake: FakeOpenAIProcess) -> list[dict[str, Any]]:
    """The messages of the newest streamed request."""
    streamed = [request for request in fake.requests() if request["body"].get("stream")]
    return list(streamed[-1]["body"]["messages"])


def talk(client: Client, session: str, turns: int, what: str = "the garden") -> list[dict[str, Any]]:
    """Turns of some hundred tokens each; their events."""
    found = []
    for number in range(turns):
        found += client.chat(session, f"Tell me about {what}, part {number}. " + "There is a lot to say of it. " * 8)
    return found


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {what}")
        time.sleep(0.1)
    return found


def context(client: Client, session: str, message: str = "") -> dict[str, Any]:
    answer = client.http.get(f"/sessions/{session}/context", params={"message": message})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def summaries(client: Client, session: str) -> list[dict[str, Any]]:
    return list(client.http.get(f"/sessions/{session}/summaries").json())


def words_of(messages: list[dict[str, Any]]) -> str:
    return "\n".join(str(message["content"]) for message in messages)


def test_what_was_said_long_ago_is_found_summarised_and_told(client: Client, fake: FakeOpenAIProcess) -> None:
    session = client.new_session("plain")
    client.chat(session, "My ship is called Aurora and lies in Trieste.")
    events = talk(client, session, 14)
    wait_until(lambda: summaries(client, session), "a summary")
    wait_until(lambda: "Aurora" in json.dumps(context(client, session, "Which ship is it?")["parts"]), "the index")

    events += client.chat(session, "What is the name of my ship?")
    sent = prompt(fake)
    assert sent[0] == {"role": "system", "content": "Be brief."}
    assert sent[-1] == {"role": "user", "content": "What is the name of my ship?"}
    assert sent[-2]["role"] == "system"
    assert "My ship is called Aurora and lies in Trieste." in sent[-2]["content"]
    assert sum(len(str(message["content"]).split()) for message in sent) < LIMIT - RESERVE
    assert "You said: a summary of" in words_of(sent), "the model's summary of the oldest turns"

    told = [event for event in events if event["type"] == "summary"]
    assert told
    assert told[0]["first_turn"] == 1
    assert told[0]["tokens_before"] > told[0]["tokens_after"] > 0
    assert len({event["summary_id"] for event in told}) == len(told), "each is told once"
    (standing, *_) = summaries(client, session)
    assert standing["made_by"] == "summarizer"
    assert standing["is_reverted"] is False

    history = client.http.get(f"/sessions/{session}/history", params={"limit": 200}).json()["messages"]
    assert history[0]["content"] == "My ship is called Aurora and lies in Trieste.", "nothing is deleted"
    assert len(history) == 2 * 16

    seen = context(client, session, "What is the name of my ship?")
    parts = {part["part"]: part for part in seen["parts"]}
    assert list(parts) == ["system", "summary", "recent", "excerpts", "turn"]
    assert seen["tokens"] == sum(part["tokens"] for part in seen["parts"]) <= seen["limit"] - seen["reserve"]
    assert seen["left_out"]["messages"] > 0
    assert not seen["is_whole"]
    assert seen["notes"] == context(client, session)["notes"] == [], "nothing was missing, also without a message"
    assert any("words #" in item["why"] and "meaning #" in item["why"] for item in parts["excerpts"]["items"])

    reverted = client.http.post(f"/sessions/{session}/summaries/{standing['summary_id']}/revert").json()
    assert standing["summary_id"] in {each["summary_id"] for each in reverted}
    client.chat(session, "And now?")
    assert standing["summary_id"] not in _shown_summaries(context(client, session))
    client.http.post(f"/sessions/{session}/summaries/{standing['summary_id']}/restore")
    assert standing["summary_id"] in _shown_summaries(context(client, session))


def _shown_summaries(seen: dict[str, Any]) -> list[int]:
    return [item["summary_id"] for part in seen["parts"] if part["part"] == "summary" for item in part["items"]]


def test_summaries_are_charged_to_the_session(client: Client, long_site: Site) -> None:
    session = client.new_session("plain")
    events = talk(client, session, 12)
    answered = sum(event["usage"]["input_tokens"] for event in events if event["type"] == "done")
    wait_until(lambda: summaries(client, session), "a summary")
    used = client.http.get(f"/sessions/{session}").json()["usage"]["input_tokens"]
    assert used > answered
    code = (
        "from django.db.models import Sum; from sessions_app.models import UsageRecord;"
        f"print('n', UsageRecord.objects.filter(session='{session}').aggregate(n=Sum('input_tokens'))['n'])"
    )
    recorded = int(long_site.manage("shell", "-v", "0", "-c", code).split("n ")[1])
    assert recorded >= used
    assert client.http.get(f"/sessions/{session}").json()["usage"]["input_tokens"] <= recorded


def test_pinned_messages_are_always_there(client: Client, fake: FakeOpenAIProcess) -> None:
    session = client.new_session("window")
    client.chat(session, "Always answer in Slovene. 😀")
    talk(client, session, 2)
    first = client.http.get(f"/sessions/{session}/history").json()["messages"][0]
    url = f"/sessions/{session}/messages/{first['id']}"
    assert client.http.patch(url, json={"is_pinned": True}).json()["is_pinned"] is True
    talk(client, session, 14)
    sent = prompt(fake)
    assert sent[0] == {"role": "user", "content": "Always answer in Slovene. 😀"}
    assert client.http.patch(url, json={"is_pinned": False}).status_code == 200
    talk(client, session, 1)
    assert "Slovene" not in words_of(prompt(fake))


def test_pins_that_cannot_be_are_refused(client: Client, long_site: Site) -> None:
    session = client.new_session("window")
    client.chat(session, "long " * 1_500)
    messages = client.http.get(f"/sessions/{session}/history").json()["messages"]
    url = f"/sessions/{session}/messages/{messages[0]['id']}"
    assert code_of(client.http.patch(url, json={"is_pinned": True})) == (409, "pinned_too_large")
    assert code_of(client.http.patch(url, json={"is_pinned": "perhaps"})) == (400, "invalid_request")
    for message_id in ("0", "x", "9" * 30):
        answer = client.http.patch(f"/sessions/{session}/messages/{message_id}", json={"is_pinned": True})
        assert code_of(answer) == (404, "message_not_found")
    for summary_id in ("0", "x", "9" * 30):
        answer = client.http.post(f"/sessions/{session}/summaries/{summary_id}/revert")
        assert code_of(answer) == (404, "summary_not_found")
    other = client.new_session("window")
    moved = client.http.patch(f"/sessions/{other}/messages/{messages[0]['id']}", json={"is_pinned": True})
    assert code_of(moved) == (404, "message_not_found")


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_without_its_embedder_it_finds_by_words(client: Client, fake: FakeOpenAIProcess) -> None:
    session = client.new_session("plain")
    client.chat(session, "The harbour master is Ludovico.")
    talk(client, session, 14)
    wait_until(lambda: "Ludovico" in json.dumps(context(client, session, "harbour master")["parts"]), "the index")
    fake.break_models("embedder")
    events = client.chat(session, "Who is the harbour master, again?")
    assert events[-1]["type"] == "done"
    assert "Ludovico" in words_of(prompt(fake))
    assert any("embedder did not answer" in note for note in context(client, session, "Who then?")["notes"])


def test_without_its_summariser_there_is_a_summary_all_the_same(client: Client, fake: FakeOpenAIProcess) -> None:
    fake.break_models("summarizer-fragile")
    session = client.new_session("fragile")
    assert all(event["type"] != "error" for event in talk(client, session, 12))
    made = wait_until(lambda: summaries(client, session), "a summary")
    assert made[0]["made_by"] == "extractive"
    assert "garden" in made[0]["text"]
    fake.break_models()

    def is_made_again() -> bool:
        client.chat(session, "Go on.")  # each turn of a long conversation has its context tended
        return bool(summaries(client, session)[0]["made_by"] == "summarizer-fragile")

    wait_until(is_made_again, "the model's summary")


def test_a_message_larger_than_the_context_is_cut_in_its_middle(client: Client, fake: FakeOpenAIProcess) -> None:
    session = client.new_session("plain")
    message = "begin " + "word 你好 😀 " * 3_000 + " end"
    assert client.chat(session, message)[-1]["type"] == "done"
    (_, said) = prompt(fake)
    assert said["content"].startswith("begin")
    assert said["content"].endswith(" end")
    assert "tokens were cut here" in said["content"]
    assert client.http.get(f"/sessions/{session}/history").json()["messages"][0]["content"] == message


def test_a_context_without_room_is_said_when_the_run_begins(client: Client) -> None:
    session = client.new_session("crammed")
    events = client.chat(session, "Hello")
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "context_too_small")
    assert "system prompt" in events[-1]["message"]
    answer = client.http.get(f"/sessions/{session}/context", params={"message": "Hello"})
    assert code_of(answer) == (409, "context_too_small")


def test_an_empty_session_has_a_context_too(client: Client) -> None:
    seen = context(client, client.new_session("plain"))
    assert seen["is_whole"]
    assert [part["part"] for part in seen["parts"]] == ["system"]
    answer = client.http.get(f"/sessions/{client.new_session('plain')}/context", params={"message": "a\x00b"})
    assert code_of(answer) == (400, "invalid_request")


def test_own_shares_are_used(client: Client) -> None:
    session = client.new_session("halves")
    talk(client, session, 16)
    seen = wait_until(
        lambda: (found := context(client, session)) and len(found["parts"]) > 1 and _by(found, "importance") and found,
        "the index",
    )
    assert seen["shares"] == {"sliding_window": 0.5, "importance": 0.5}
    assert all(item["strategy"] == "importance" and item["why"] for item in _by(seen, "importance"))


def _by(seen: dict[str, Any], strategy: str) -> list[dict[str, Any]]:
    return [item for part in seen["parts"] for item in part["items"] if item.get("strategy") == strategy]


def test_a_runs_own_steps_stay_within_the_context(client: Client, fake: FakeOpenAIProcess) -> None:
    """Six tool results, of which few would fit."""
    session = client.new_session("worker")
    directive = '[[tool=produce args={"characters": 3000} rounds=6]]'
    events = client.chat(session, directive)
    assert events[-1]["type"] == "done", events[-1]
    assert len([event for event in events if event["type"] == "tool_result"]) == 6
    sent = prompt(fake)
    assert sum(len(str(message["content"])) for message in sent) / 4 < LIMIT
    assert "were cut here" in words_of(sent)
    calls = [call["id"] for message in sent for call in message.get("tool_calls", [])]
    assert calls == [message["tool_call_id"] for message in sent if message["role"] == "tool"]


def test_pinned_messages_stay_when_a_runs_steps_outgrow_the_context(client: Client, fake: FakeOpenAIProcess) -> None:
    session = client.new_session("worker")
    client.chat(session, "Always answer in Slovene.")
    client.chat(session, "And this is an exchange that may go.")
    first = client.http.get(f"/sessions/{session}/history").json()["messages"][0]
    client.http.patch(f"/sessions/{session}/messages/{first['id']}", json={"is_pinned": True})
    events = client.chat(session, '[[tool=produce args={"characters": 3000} rounds=6]]')
    assert events[-1]["type"] == "done", events[-1]
    sent = prompt(fake)
    assert sent[0] == {"role": "user", "content": "Always answer in Slovene."}
    assert "were cut here" in words_of(sent)
    assert "an exchange that may go" not in words_of(sent)


def test_a_draft_is_embedded_while_it_is_written(client: Client, long_site: Site) -> None:
    session = client.new_session("plain")
    client.chat(session, "The lighthouse keeper is Ondina.")
    talk(client, session, 14)
    draft = "Who keeps the lighthouse at night?"

    def speculated(outcome: str) -> float:
        metrics = client.http.get("/metrics").text
        name = f'agentsite_speculation_total{{kind="embedding",outcome="{outcome}"}}'
        return next((float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(name)), 0.0)

    with httpx_ws(long_site, session) as socket:
        socket.send(json.dumps({"type": "typing", "message": draft}))
        socket.send(json.dumps({"type": "typing", "message": 5}))
        complaint = json.loads(socket.recv(timeout=10))
        assert complaint["data"]["code"] == "invalid_request"

        def is_used() -> bool:
            socket.send(json.dumps({"type": "typing", "message": draft}))
            time.sleep(1.1)  # the server takes one draft a second
            client.chat(session, draft)
            return speculated("used") > 0

        wait_until(is_used, "the use of what was embedded ahead")


def httpx_ws(site: Site, session: str) -> Any:
    headers = {"Authorization": f"Bearer {site.token}"}
    return connect(f"{site.ws_url}/ws/{session}", additional_headers=headers, ping_interval=None)  # nobody reads it


def test_the_admin_shows_summaries_and_takes_them_back(client: Client, long_site: Site) -> None:
    session = client.new_session("plain")
    talk(client, session, 12)
    summary = wait_until(lambda: summaries(client, session), "a summary")[0]
    with httpx.Client(base_url=long_site.url, follow_redirects=True, timeout=30.0) as browser:
        browser.get("/login/")
        form = {"username": "admin", "password": long_site.credentials["password"]}
        browser.post("/login/", data={**form, "csrfmiddlewaretoken": browser.cookies["csrftoken"]})
        listed = browser.get(f"/admin/sessions_app/summary/?session__id__exact={session}")
        assert listed.status_code == 200
        assert "Turns 1 to" in listed.text
        assert browser.get(f"/admin/sessions_app/summary/{summary['summary_id']}/change/").status_code == 200
        action = {"action": "revert", "_selected_action": summary["summary_id"]}
        done = browser.post(
            "/admin/sessions_app/summary/", data={**action, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        )
        assert "reverted" in done.text
    assert summaries(client, session)[0]["is_reverted"] is True


def test_an_answer_does_not_wait_for_the_background(client: Client) -> None:
    """All that a turn needs of it may be missing: the newest messages are there."""
    session = client.new_session("plain")
    talk(client, session, 18)
    assert text_of(client.chat(session, "Short one.")) == "You said: Short one."

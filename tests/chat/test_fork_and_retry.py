"""Fork a conversation, and run a turn again that came to nothing."""

from typing import Any

import pytest

from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, text_of

TOOL = 'tool=calculator args={"expression": "6*7"}'


def history(client: Client, session: str) -> list[dict[str, Any]]:
    return list(client.http.get(f"/sessions/{session}/history").json()["messages"])


def said(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    fields = ("role", "content", "thought", "tool_calls", "tool_call_id", "created_at", "token_count")
    return [tuple(message[name] for name in fields) for message in messages]


def fork(client: Client, session: str, **body: Any) -> Any:
    return client.http.post(f"/sessions/{session}/fork", json=body)


def test_a_fork_begins_where_the_message_is_and_goes_its_own_way(client_of_site: Client) -> None:
    session = client_of_site.new_session(initial_context={"a": 1}, title="Origin")
    client_of_site.ask(session, "What is 6*7?")
    client_of_site.ask(session, "Count to 3")
    messages = history(client_of_site, session)
    answer = fork(client_of_site, session, message_id=messages[3]["id"])
    assert answer.status_code == 201
    forked = answer.json()
    assert (forked["forked_from"], forked["title"], forked["state"]) == (session, "Origin", {"a": 1})
    assert (forked["message_count"], forked["usage"]) == (4, {"input_tokens": 0, "output_tokens": 0})
    copied = history(client_of_site, forked["session_id"])
    assert said(copied) == said(messages[:4])
    assert not {message["id"] for message in copied} & {message["id"] for message in messages}
    events = client_of_site.chat(forked["session_id"], "Count to 2")
    assert text_of(events) == "1 2."
    assert len(history(client_of_site, session)) == len(messages)
    assert len(history(client_of_site, forked["session_id"])) == 6


def test_the_whole_session_forks_without_a_message(client_of_site: Client) -> None:
    session = client_of_site.new_session()
    client_of_site.ask(session, "Count to 3")
    forked = fork(client_of_site, session, title="Copy").json()
    assert forked["title"] == "Copy"
    assert said(history(client_of_site, forked["session_id"])) == said(history(client_of_site, session))


def test_a_fork_tells_nothing_of_what_was_cancelled_before_it(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    asked = {"message": "hi [[tokens=200 delay_ms=5]]"}
    with client_of_site.stream("POST", f"/sessions/{session}/chat", json=asked) as events, site.client() as other:
        next(events)
        other.http.post(f"/sessions/{session}/cancel")
        assert list(events)[-1]["type"] == "cancelled"
    forked = fork(client_of_site, session).json()["session_id"]
    last = client_of_site.chat(forked, "[[tokens=2]]")[-1]["id"]
    client_of_site.http.post(f"/sessions/{forked}/cancel")
    once_more = client_of_site.chat(forked, "[[tokens=2]]")[-1]["id"]
    assert last.split("-")[0] == "1"
    told = client_of_site.events_after(forked, "0-0", until=once_more)
    assert {event["type"] for event in told} == {"message", "response", "done"}


def test_what_is_not_there_or_anothers_cannot_be_forked(client_of_site: Client, stranger: Client) -> None:
    session, other = client_of_site.new_session(), client_of_site.new_session()
    client_of_site.ask(other, "hi")
    foreign = history(client_of_site, other)[0]["id"]
    for message_id in (foreign, 2**62):
        refused = fork(client_of_site, session, message_id=message_id)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "message_not_found")
    assert fork(client_of_site, session, message_id="x").status_code == 400
    assert fork(stranger, session).json()["error"]["code"] == "session_not_found"


def test_a_failed_run_is_retried_from_its_last_finished_step(client_of_site: Client, fake: FakeOpenAIProcess) -> None:
    """The tool has answered when the model fails; the retry asks the model only for what is missing."""
    session = client_of_site.new_session("chat")
    events = client_of_site.chat(session, f"sum [[{TOOL} rounds=1 tokens=3]]")
    assert events[-1]["type"] == "done"
    failed = client_of_site.chat(session, f"sum [[{TOOL} tokens=30 error_after=2 times=99]]")
    assert failed[-1]["type"] == "error"
    run_id = failed[-1]["run_id"]
    before = history(client_of_site, session)
    answer = client_of_site.http.post(f"/runs/{run_id}/retry", json={"stream": False})
    retried = client_of_site.http.get(f"/sessions/{session}/runs").json()["results"][0]
    assert retried["retry_of"] == run_id
    assert answer.json()["run_id"] == retried["run_id"]
    after = history(client_of_site, session)
    finished = [message for message in before if not message["is_partial"]]
    assert said(after)[: len(finished)] == said(finished)
    again = client_of_site.http.post(f"/runs/{run_id}/retry", json={})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "run_not_retryable")


def test_a_cancelled_run_is_retried_without_its_partial_answer(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    asked = {"message": "hi [[tokens=200 delay_ms=5]]"}
    with client_of_site.stream("POST", f"/sessions/{session}/chat", json=asked) as events, site.client() as other:
        while next(events)["type"] != "response":
            pass
        other.http.post(f"/sessions/{session}/cancel")
        cancelled = list(events)[-1]
    assert cancelled["type"] == "cancelled"
    with client_of_site.stream("POST", f"/runs/{cancelled['run_id']}/retry") as events:
        retried = list(events)
    assert (retried[0]["type"], retried[-1]["type"]) == ("message", "done")
    assert text_of(retried) == "".join(f"tok{n} " for n in range(200))
    messages = history(client_of_site, session)
    assert [(message["role"], message["is_partial"]) for message in messages] == [("user", False), ("assistant", False)]


@pytest.mark.parametrize("is_mine", [True, False])
def test_only_ones_own_and_only_what_came_to_nothing(client_of_site: Client, stranger: Client, is_mine: bool) -> None:
    session = client_of_site.new_session()
    run_id = client_of_site.ask(session, "hi")["run_id"]
    refused = (client_of_site if is_mine else stranger).http.post(f"/runs/{run_id}/retry", json={})
    expected = (409, "run_not_retryable") if is_mine else (404, "run_not_found")
    assert (refused.status_code, refused.json()["error"]["code"]) == expected

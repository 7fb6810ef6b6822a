"""One cursor: whoever comes back with it gets every event behind it, once."""

import pytest
import redis

from tests.site import Client, Site, text_of


@pytest.fixture(scope="module")
def tape(site: Site) -> tuple[str, list[dict[str, object]]]:
    """A session and all its events: a turn with tools, and one that only talks."""
    with site.client() as client:
        session = client.new_session()
        events = client.chat(session, "What is 6*7 and what time is it in Paris?")
        return session, events + client.chat(session, "Count to 30")


def test_from_every_cursor_comes_exactly_the_rest(tape: tuple[str, list], client_of_site: Client) -> None:
    session, events = tape
    whole = client_of_site.events_after(session, "0-0", until=events[-1]["id"])
    assert (text_of(whole), text_of(whole, "thought")) == (text_of(events), text_of(events, "thought"))
    for at in range(0, len(events) - 1, 7):
        rest = client_of_site.events_after(session, events[at]["id"], until=events[-1]["id"])
        assert text_of(rest) == text_of(events[at + 1 :])
        assert not [event for event in rest if event["type"] == "discard"]
        ids = [tuple(map(int, event["id"].split("-"))) for event in rest]
        assert ids == sorted(set(ids))


def test_last_event_id_is_the_same_cursor(tape: tuple[str, list], client_of_site: Client) -> None:
    session, events = tape
    headers = {"Last-Event-ID": events[-2]["id"]}
    with client_of_site.stream("GET", f"/sessions/{session}/events", headers=headers) as rest:
        assert next(rest)["id"] == events[-1]["id"]


def test_a_reader_in_the_middle_of_a_run_gets_all_of_it(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    with client_of_site.stream(
        "POST", f"/sessions/{session}/chat", json={"message": "hi [[tokens=60 delay_ms=10]]"}
    ) as events:
        first = [next(events) for _ in range(5)]
        with site.client() as other:
            watched = []
            with other.stream("GET", f"/sessions/{session}/events") as rest:  # no cursor: the run in progress
                for event in rest:
                    watched.append(event)
                    if event["type"] == "done":
                        break
        whole = first + list(events)
    assert text_of(watched) == text_of(whole) == "".join(f"tok{n} " for n in range(60))


@pytest.fixture
def without_stream(site: Site, tape: tuple[str, list]) -> None:
    """Redis has lost the session's stream; the facts are left."""
    url = site.manage("shell", "-v", "0", "-c", "from django.conf import settings; print(settings.REDIS_URL)").strip()
    with redis.Redis.from_url(url) as connection:
        connection.delete(f"agentsite:events:{tape[0]}")


@pytest.mark.usefixtures("without_stream")
def test_without_the_stream_the_facts_tell_it_merged(tape: tuple[str, list], client_of_site: Client) -> None:
    session, events = tape
    told = client_of_site.events_after(session, "0-0", until=events[-1]["id"])
    assert (text_of(told), text_of(told, "thought")) == (text_of(events), text_of(events, "thought"))
    assert len(told) < len(events)
    facts = ("message", "tool_call", "tool_result", "done")
    assert [event["id"] for event in told if event["type"] in facts] == [
        event["id"] for event in events if event["type"] in facts
    ]


@pytest.mark.usefixtures("without_stream")
def test_a_cursor_inside_a_merged_text_is_told_what_to_discard(tape: tuple[str, list], client_of_site: Client) -> None:
    session, events = tape
    deltas = [event for event in events if event["type"] == "response" and event["id"].startswith("2-")]
    rest = client_of_site.events_after(session, deltas[3]["id"], until=events[-1]["id"])
    assert rest[0]["type"] == "discard"
    assert (rest[0]["reason"], rest[0]["since"], rest[0]["id"]) == ("merged", deltas[0]["id"], None)
    assert text_of(rest) == text_of(deltas)


@pytest.mark.parametrize("cursor", ["x", "1", "1-", "-1-2", "1-2-3", "1.5-2", "99999999999999999999-1"])
def test_a_cursor_of_no_form_is_refused(cursor: str, tape: tuple[str, list], client_of_site: Client) -> None:
    answer = client_of_site.http.get(f"/sessions/{tape[0]}/events", params={"after": cursor})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")


def test_a_cursor_from_the_future_is_refused(tape: tuple[str, list], client_of_site: Client) -> None:
    answer = client_of_site.http.get(f"/sessions/{tape[0]}/events", params={"after": "99-1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")


def test_a_run_outlives_the_client_that_began_it(client_of_site: Client) -> None:
    session = client_of_site.new_session("chat")
    with client_of_site.stream(
        "POST", f"/sessions/{session}/chat", json={"message": "hi [[tokens=40 delay_ms=10]]"}
    ) as events:
        last = [next(events) for _ in range(4)][-1]["id"]
    with client_of_site.stream("GET", f"/sessions/{session}/events", params={"after": last}) as events:
        rest = []
        for event in events:
            rest.append(event)
            if event["type"] == "done":
                break
    assert text_of(rest).endswith("tok39 ")

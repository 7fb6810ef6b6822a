"""A long history pages in constant time."""

import itertools
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from sessions_app.models import AgentSession, Message, Run
from sessions_app.prompt import Wanted, newest_messages, newest_of_short
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db


def make_history(user: Any, turns: int) -> AgentSession:
    session = create_session(owner=user)
    runs = Run.objects.bulk_create(Run(session=session, turn=turn, status="succeeded") for turn in range(1, turns + 1))
    Message.objects.bulk_create(
        Message(session=session, run=run, turn=run.turn, position=position, role=role, content=f"{run.turn} {role}",
                token_count=10)
        for run in runs
        for position, role in enumerate(("user", "assistant"))
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE sessions_app_message")
    return session


def test_it_pages_backwards_without_hole_or_repeat(api: APIClient, user: Any) -> None:
    session = make_history(user, 30)
    pages: list[list[str]] = []
    before: str | None = ""
    while before is not None:
        page = api.get(f"/sessions/{session.pk}/history?limit=7{before}").json()
        pages.insert(0, [message["content"] for message in page["messages"]])
        before = f"&before={page['before']}" if page["before"] else None
    assert list(itertools.chain.from_iterable(pages)) == [
        f"{turn} {role}" for turn in range(1, 31) for role in ("user", "assistant")
    ]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "before=x", "before=99999999", "before=-1"])
def test_it_refuses_what_is_not_a_page(query: str, api: APIClient, user: Any) -> None:
    session = make_history(user, 1)
    answer = api.get(f"/sessions/{session.pk}/history?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def rows_read(query: str) -> int:
    """The most rows that any node of the query's plan touched."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
        plan = cursor.fetchone()[0]
    nodes, most = [plan[0]["Plan"]], 0
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        most = max(most, int(node["Actual Rows"]) + node.get("Rows Removed by Filter", 0))
    return most


def test_a_page_of_ten_thousand_messages_reads_a_page(api: APIClient, user: Any) -> None:
    session = make_history(user, 5_000)
    middle = Message.objects.get(session=session, turn=2_500, position=0).pk
    for query in ("", f"&before={middle}"):
        with CaptureQueriesContext(connection) as captured:
            page = api.get(f"/sessions/{session.pk}/history?limit=50{query}").json()
        assert len(page["messages"]) == 50
        assert len(captured) <= 7  # caller, session, snapshot, cursor, anchor, page, savepoint
        selects = [entry["sql"] for entry in captured if "sessions_app_message" in entry["sql"]]
        assert max(map(rows_read, selects)) <= 60  # a page, the one row that tells of more, and its turn


def test_several_conversations_are_read_in_one_statement(user: Any) -> None:
    short, long, none = make_history(user, 3), make_history(user, 100), make_history(user, 0)
    wanted = [
        Wanted(long.pk, 100, 3_000),
        Wanted(none.pk, 1, 500),
        Wanted(short.pk, 3, 500),
        Wanted(long.pk, 60, 25, first_turn=59),
    ]
    with CaptureQueriesContext(connection) as captured:
        found = newest_of_short(wanted)
    assert len(captured) == 1
    assert found[0] is None  # more than a page
    assert found[1:] == [
        newest_messages(each.session_id, turn=each.turn, max_tokens=each.max_tokens, first_turn=each.first_turn)
        for each in wanted[1:]
    ]
    assert [newest and (len(newest.messages), newest.is_all) for newest in found[1:]] == [
        (0, True),
        (6, True),
        (2, False),
    ]


def test_a_prompt_of_ten_thousand_messages_reads_what_fits(user: Any) -> None:
    session = make_history(user, 5_000)
    with CaptureQueriesContext(connection) as captured:
        messages = newest_messages(session.pk, turn=5_000, max_tokens=1_000).messages
    assert [message.content for message in messages][-2:] == ["5000 user", "5000 assistant"]
    assert sum(message.token_count for message in messages) == 1_000
    assert len(captured) == 3
    assert max(rows_read(entry["sql"]) for entry in captured) <= 200

"""Usage in the operators' admin: totals of what is listed, and all of it as CSV."""

import asyncio
import csv
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext

from sessions_app.admin import usage as usage_admin
from sessions_app.csv_export import as_csv, csv_download
from sessions_app.models import AgentType, UsageRecord
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db
LIST = "/admin/sessions_app/usagerecord/"
EXPORT = f"{LIST}export/"


@pytest.fixture
def admin(client: Any, user: Any) -> Any:
    user.is_staff = user.is_superuser = True
    user.save()
    client.force_login(user)
    return client


def record(owner: Any, **fields: Any) -> UsageRecord:
    values = {"input_tokens": 1_000, "output_tokens": 10, "cost": Decimal("0.25"), "model": "m", **fields}
    return UsageRecord.objects.create(owner=owner, **values)


def rows_of(answer: Any) -> list[dict[str, str]]:
    assert answer.status_code == 200
    assert answer["content-type"] == "text/csv; charset=utf-8"
    assert answer["content-disposition"] == 'attachment; filename="usage.csv"'
    return list(csv.DictReader(answer.getvalue().decode().splitlines()))


def test_a_row_has_everything_that_is_on_record(admin: Any, user: Any) -> None:
    session = create_session(owner=user, agent_type="demo")
    made = record(
        user,
        session=session,
        agent_type=AgentType.objects.get(name="demo"),
        purpose="summary",
        cached_tokens=40,
        reasoning_tokens=3,
        counted_tokens=990,
        is_estimated=True,
        tool_calls=2,
        queue_ms=12,
        wall_ms=3_400,
    )
    (row,) = rows_of(admin.get(EXPORT))
    assert row.pop("created_at").startswith(str(made.created_at)[:19])
    assert row == {
        "id": str(made.pk),
        "owner": "owner",
        "session_id": str(session.pk),
        "run_id": "",
        "agent_type": "demo",
        "purpose": "summary",
        "model": "m",
        "input_tokens": "1000",
        "cached_tokens": "40",
        "output_tokens": "10",
        "reasoning_tokens": "3",
        "counted_tokens": "990",
        "is_estimated": "True",
        "tool_calls": "2",
        "cost": "0.250000",
        "queue_ms": "12",
        "wall_ms": "3400",
    }


def test_it_is_what_the_list_shows_and_not_one_page_of_it(admin: Any, user: Any, other_user: Any) -> None:
    for _ in range(60):
        record(user)
    record(other_user, model="special")
    assert len(rows_of(admin.get(EXPORT))) == 61
    assert [row["owner"] for row in rows_of(admin.get(EXPORT, {"model": "special"}))] == ["other"]
    assert [row["owner"] for row in rows_of(admin.get(EXPORT, {"q": "other"}))] == ["other"]
    page = admin.get(LIST, {"model": "special"}).content.decode()
    assert f'href="{EXPORT}?model=special"' in page
    assert admin.get(EXPORT, {"created_at__gte": "nonsense"}).status_code == 302


def test_the_selected_can_be_exported_alone(admin: Any, user: Any) -> None:
    first, _ = record(user), record(user)
    action = {"action": "export_selected", "_selected_action": [first.pk]}
    assert [row["id"] for row in rows_of(admin.post(LIST, action))] == [str(first.pk)]


def test_the_list_has_the_totals_of_all_that_is_listed(admin: Any, user: Any) -> None:
    record(user, cached_tokens=40, reasoning_tokens=3)
    record(user, model="other")
    totals = dict(admin.get(LIST).context_data["totals"])
    assert totals == {
        "calls": "2",
        "input": "2,000",
        "cached": "40",
        "output": "20",
        "reasoning": "3",
        "cost": "0.5",
    }
    assert dict(admin.get(LIST, {"model": "other"}).context_data["totals"])["calls"] == "1"
    assert dict(admin.get(LIST, {"model": "nothing"}).context_data["totals"])["cost"] == "0"
    assert b"<strong>2</strong> calls" in admin.get(LIST).content


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@sum", "\tx", "\rx"])
def test_no_cell_is_a_formula(admin: Any, user: Any, text: str) -> None:
    record(user, model=text)
    assert f"'{text}" in admin.get(EXPORT).getvalue().decode()
    assert list(as_csv(["n", "m"], [[-5, "plain"]])) == ["n,m\r\n", "-5,plain\r\n"]


def test_it_is_read_a_page_at_a_time(admin: Any, user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_admin, "_PAGE", 3)
    made = [record(user).pk for _ in range(7)]
    with CaptureQueriesContext(connection) as captured:
        rows = rows_of(admin.get(EXPORT))
    assert [int(row["id"]) for row in rows] == made
    pages = [each["sql"] for each in captured if "wall_ms" in each["sql"] and "LIMIT 3" in each["sql"]]
    assert len(pages) == 4


def test_a_hundred_thousand_rows_take_no_more_memory_than_a_few() -> None:
    rows = ([number, "x" * 100] for number in range(100_000))
    answer = csv_download(RequestFactory().get("/"), "usage.csv", as_csv(["n", "text"], rows))
    tracemalloc.start()
    assert sum(len(piece) for piece in answer) > 10**7
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


def test_an_asgi_gateway_streams_it_too(async_rf: Any) -> None:
    async def pieces() -> list[bytes]:
        answer = csv_download(async_rf.get("/"), "usage.csv", as_csv(["n"], ([n] for n in range(1_200))))
        assert answer.is_async
        return [piece async for piece in answer]

    got = asyncio.run(pieces())
    assert len(got) == 4
    assert b"".join(got).decode().split() == ["n", *map(str, range(1_200))]


def test_it_is_for_staff_with_the_permission(client: Any, other_user: Any) -> None:
    assert client.get(EXPORT).status_code == 302
    client.force_login(other_user)
    assert client.get(EXPORT).status_code == 302
    other_user.is_staff = True
    other_user.save()
    assert client.get(EXPORT).status_code == 403

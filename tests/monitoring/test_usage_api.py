"""GET /usage: what the caller's model calls have used."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from monitoring import usage
from sessions_app.models import AgentType, UsageRecord
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db
JAN = datetime(2026, 1, 31, 22, 30, tzinfo=UTC)


def record(owner: Any, at: datetime = JAN, **fields: Any) -> UsageRecord:
    values = {"input_tokens": 100, "output_tokens": 10, "cost": Decimal("0.25"), "model": "m", **fields}
    made = UsageRecord.objects.create(owner=owner, **values)
    UsageRecord.objects.filter(pk=made.pk).update(created_at=at)
    return made


def ask(api: APIClient, **query: str) -> Any:
    query = {"from": "2026-01-01", "to": "2026-02-28", **query}
    answer = api.get("/usage", query)
    assert answer.status_code == 200, answer.content
    return answer.json()


@pytest.fixture
def staff(user: Any, api: APIClient) -> APIClient:
    user.is_staff = True
    user.save()
    return api


def test_days_are_summed_up_in_utc(api: APIClient, user: Any) -> None:
    record(user, cached_tokens=40, reasoning_tokens=3, tool_calls=2)
    record(user, is_estimated=True)
    record(user, JAN + timedelta(hours=2))
    answer = ask(api)
    assert [row["day"] for row in answer["rows"]] == ["2026-02-01T00:00:00Z", "2026-01-31T00:00:00Z"]
    sums: dict[str, Any] = {
        "calls": 2,
        "input_tokens": 200,
        "output_tokens": 20,
        "cached_tokens": 40,
        "reasoning_tokens": 3,
    }
    sums |= {"tool_calls": 2, "cost": "0.5", "estimated_calls": 1}
    assert answer["rows"][1] == {"day": "2026-01-31T00:00:00Z", **sums}
    assert (answer["totals"]["calls"], answer["totals"]["cost"], answer["truncated"]) == (3, "0.75", False)


def test_it_is_summed_up_by_whatever_is_asked_for(api: APIClient, user: Any) -> None:
    session = create_session(owner=user, agent_type="demo")
    agent_type = AgentType.objects.get(name="demo")
    record(user, session=session, agent_type=agent_type)
    record(user, session=session, agent_type=agent_type, purpose="summary")
    record(user, model="other")
    rows = ask(api, by="agent_type,model,session,purpose,hour,month")["rows"]
    keys = [tuple(row[name] for name in ("agent_type", "model", "session", "purpose", "calls")) for row in rows]
    assert keys == [
        ("demo", "m", str(session.pk), "answer", 1),
        ("demo", "m", str(session.pk), "summary", 1),
        (None, "other", None, "answer", 1),
    ]
    assert {(row["hour"], row["month"]) for row in rows} == {("2026-01-31T22:00:00Z", "2026-01-01T00:00:00Z")}


def test_a_date_is_included_and_a_time_is_not(api: APIClient, user: Any) -> None:
    record(user)
    for end, calls in [("2026-01-30", 0), ("2026-01-31", 1), ("2026-01-31T22:30:00", 0), ("2026-01-31T22:30:01Z", 1)]:
        assert ask(api, to=end)["totals"]["calls"] == calls, end
    assert ask(api, **{"from": "2026-01-31T23:30:00+01:00"})["totals"]["calls"] == 1
    assert ask(api, **{"from": "2026-01-31T22:30:01"})["totals"]["calls"] == 0


def test_by_default_it_is_of_the_last_thirty_days(api: APIClient, user: Any) -> None:
    record(user, timezone.now() - timedelta(days=31))
    record(user, timezone.now() - timedelta(days=29))
    answer = api.get("/usage/").json()
    assert (answer["totals"]["calls"], answer["by"]) == (1, ["day"])


def test_nothing_used_is_an_answer_too(api: APIClient) -> None:
    answer = ask(api)
    assert answer["rows"] == []
    assert (answer["totals"]["calls"], answer["totals"]["cost"]) == (0, "0")


def test_one_sees_only_ones_own(api: APIClient, other_user: Any) -> None:
    record(other_user)
    assert ask(api)["totals"]["calls"] == 0
    assert ask(api, user="owner")["totals"]["calls"] == 0
    for query in ({"user": "other"}, {"user": "*"}, {"by": "user"}):
        answer = api.get("/usage", query)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")


def test_staff_see_everybodys(staff: APIClient, user: Any, other_user: Any) -> None:
    record(user)
    record(other_user, input_tokens=7)
    assert ask(staff)["totals"]["calls"] == 1
    assert ask(staff, user="other")["totals"]["input_tokens"] == 7
    rows = ask(staff, user="*", by="user")["rows"]
    assert [(row["user"], row["input_tokens"]) for row in rows] == [("other", 7), ("owner", 100)]


def test_nobody_else_gets_in() -> None:
    answer = APIClient().get("/usage")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "not_authenticated")
    answer = APIClient().get("/usage?as=csv")
    assert (answer.status_code, answer["content-type"]) == (401, "application/json")


@pytest.mark.parametrize(
    "query",
    [
        {"from": "yesterday"},
        {"from": "2026-02-30"},
        {"to": "2026-01-31T25:00:00"},
        {"to": "9999-12-31"},
        {"from": "0001-01-01T00:00:00+14:00"},
        {"from": "2026-02-01", "to": "2026-01-01"},
        {"by": "owner"},
        {"by": "day,,model"},
        {"by": "day;DROP TABLE x"},
        {"as": "xlsx"},
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(api: APIClient, query: dict[str, str]) -> None:
    answer = api.get("/usage", query)
    assert answer.status_code == 400, answer.content
    assert answer.json()["error"]["code"] == "invalid_request"
    assert answer.json()["error"]["message"].endswith(".")


def test_an_unknown_user_is_refused(staff: APIClient) -> None:
    for name in ("nobody", "\0", "x" * 1_000):
        assert staff.get("/usage", {"user": name}).status_code == 400


def test_the_rows_are_bounded_and_the_totals_are_not(
    api: APIClient, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "MAX_ROWS", 3)
    for number in range(4):
        record(user, model=f"m{number}")
    answer = ask(api, by="model")
    assert ([row["model"] for row in answer["rows"]], answer["truncated"]) == (["m0", "m1", "m2"], True)
    assert answer["totals"]["calls"] == 4
    UsageRecord.objects.filter(model="m3").delete()
    assert ask(api, by="model")["truncated"] is False


def test_it_is_one_query_by_the_owners_index(api: APIClient, user: Any) -> None:
    record(user)
    with CaptureQueriesContext(connection) as captured:
        ask(api, by="day,model,session")
    (query,) = [each["sql"] for each in captured if "usagerecord" in each["sql"]]
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {query}")
        assert "usage_by_owner" in str(cursor.fetchall())


def test_the_same_as_csv(api: APIClient, user: Any) -> None:
    session = create_session(owner=user, agent_type="demo")
    record(user, model="=cmd()", session=session)
    query = {"from": "2026-01-01", "to": "2026-02-01", "by": "model,session,agent_type"}
    answer = api.get("/usage", {**query, "as": "csv"})
    assert answer["content-type"] == "text/csv; charset=utf-8"
    header, row = answer.content.decode().splitlines()
    assert header == (
        "model,session,agent_type,calls,input_tokens,output_tokens,cached_tokens,reasoning_tokens,tool_calls,cost,"
        "estimated_calls"
    )
    assert row == f"'=cmd(),{session.pk},,1,100,10,0,0,0,0.25,0"
    assert api.get("/usage", query, headers={"accept": "text/csv"}).content == answer.content
    wrong = api.get("/usage", {"as": "csv", "by": str(uuid.uuid4())})
    assert (wrong.status_code, wrong["content-type"]) == (400, "application/json")

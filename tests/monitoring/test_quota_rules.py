"""What a quota may say."""

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import IntegrityError

from monitoring.models import Action, Measure, Period, Quota, Scope
from sessions_app.models import AgentType
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db
BUDGETS = (Measure.TOKENS, Measure.COST)


def quota(**fields: Any) -> Quota:
    values = {"name": "q", "scope": Scope.SITE, "measure": Measure.TOKENS, "period": Period.DAY, "limit": Decimal(10)}
    return Quota(**{**values, **fields})


def mistakes(**fields: Any) -> dict[str, list[str]]:
    try:
        quota(**fields).full_clean()
    except ValidationError as error:
        return error.message_dict
    return {}


@pytest.mark.parametrize("measure", BUDGETS)
@pytest.mark.parametrize("scope", [scope for scope in Scope if scope != Scope.RUN])
def test_a_budget_is_of_anything_by_hour_day_month_or_all_time(measure: Measure, scope: Scope) -> None:
    for period in (Period.HOUR, Period.DAY, Period.MONTH, Period.TOTAL):
        assert mistakes(measure=measure, scope=scope, period=period) == {}
    for period in (Period.NONE, Period.MINUTE):
        assert list(mistakes(measure=measure, scope=scope, period=period)) == ["period"]


@pytest.mark.parametrize("measure", BUDGETS)
def test_a_runs_budget_is_of_all_time(measure: Measure) -> None:
    assert mistakes(scope=Scope.RUN, measure=measure, period=Period.TOTAL) == {}
    assert mistakes(scope=Scope.RUN, measure=measure, period=Period.DAY)["period"] == [
        f"{measure.capitalize()} are counted by: total."
    ]


@pytest.mark.parametrize(
    ("measure", "period", "scopes"),
    [
        (Measure.CONCURRENT_RUNS, Period.NONE, {"site", "group", "user", "agent_type"}),
        (Measure.TOOL_CALLS, Period.MINUTE, {"session"}),
        (Measure.REQUESTS, Period.MINUTE, {"user"}),
    ],
)
def test_the_other_measures_have_scopes_and_a_period_of_their_own(
    measure: Measure, period: Period, scopes: set[str]
) -> None:
    for scope in Scope:
        found = mistakes(measure=measure, scope=scope, period=period)
        assert ("scope" in found) == (scope.value not in scopes), scope
    for other in set(Period) - {period}:
        assert "period" in mistakes(measure=measure, scope=min(scopes), period=other)


@pytest.mark.parametrize(
    "limit", ["-1", "-0.000001", "1000000000000", "999999999999999", "NaN", "Infinity", "-Infinity"]
)
def test_a_limit_that_is_negative_or_absurd_is_refused(limit: str) -> None:
    assert "limit" in mistakes(limit=Decimal(limit))
    assert "limit" in mistakes(limit=Decimal(limit), measure=Measure.COST)


def test_a_limit_is_whole_but_for_money() -> None:
    assert mistakes(limit=Decimal("1.5"))["limit"] == ["A limit of tokens is a whole number."]
    assert mistakes(limit=Decimal("0.000001"), measure=Measure.COST) == {}
    assert mistakes(limit=Decimal(0)) == {}
    assert mistakes(limit=Decimal(10) ** 12 - 1) == {}
    assert "limit" in mistakes(limit="many")
    assert "limit" in mistakes(limit=None)


def test_the_database_refuses_a_negative_limit_too() -> None:
    with pytest.raises(IntegrityError):
        quota(limit=Decimal(-1)).save()


def test_only_budgets_pause_runs_and_are_raised_by_owners() -> None:
    for measure, period, scope in [
        (Measure.CONCURRENT_RUNS, Period.NONE, Scope.USER),
        (Measure.TOOL_CALLS, Period.MINUTE, Scope.SESSION),
        (Measure.REQUESTS, Period.MINUTE, Scope.USER),
    ]:
        fields = {"measure": measure, "period": period, "scope": scope}
        assert list(mistakes(**fields, action=Action.PAUSE)) == ["action"]
        assert list(mistakes(**fields, owner_limit=Decimal(100))) == ["owner_limit"]
    assert mistakes(action=Action.PAUSE, owner_limit=Decimal(100), scope=Scope.SESSION) == {}


def test_owners_cannot_be_let_raise_it_below_itself() -> None:
    (mistake,) = mistakes(owner_limit=Decimal(9), scope=Scope.USER)["owner_limit"]
    assert mistake.startswith("It is not below the limit itself")
    assert mistakes(owner_limit=Decimal(10), scope=Scope.USER) == {}
    for absurd in ("1000000000000", "NaN", "-1"):
        assert "owner_limit" in mistakes(owner_limit=Decimal(absurd), scope=Scope.USER)


def test_a_warning_comes_at_a_part_of_the_limit() -> None:
    for percent in (0, 101, -1):
        assert "warn_percent" in mistakes(warn_percent=percent)
    assert mistakes(warn_percent=1) == mistakes(warn_percent=100) == {}


def test_a_target_is_of_its_scope(user: Any) -> None:
    targets: dict[str, Any] = {
        "user": user,
        "group": Group.objects.create(name="g"),
        "agent_type": AgentType.objects.get(name="demo"),
        "session": create_session(owner=user, agent_type="demo"),
    }
    for name, target in targets.items():
        assert mistakes(scope=name, **{name: target}) == {}
        for scope in {*Scope} - {Scope(name), Scope.RUN}:
            assert list(mistakes(scope=scope, **{name: target})) == [name], scope


def test_a_name_is_one_word_and_once() -> None:
    quota(name="daily").save()
    assert "name" in mistakes(name="daily")
    assert "name" in mistakes(name="two words")

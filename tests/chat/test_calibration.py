"""Counts that follow the provider's: a model whose encoding nobody knows here does not overflow its context."""

from typing import Any

import pytest

from chat.context import calibration
from chat.context.budget import budget_of
from chat.context.calibration import RECORDS, ratio_of
from sessions_app.agent_config import AgentConfig
from sessions_app.models import UsageRecord

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def forget() -> None:
    calibration._known.clear()


def report(user: Any, reported: int, counted: int, *, count: int = RECORDS, **fields: Any) -> None:
    UsageRecord.objects.bulk_create(
        UsageRecord(owner=user, model="odd", input_tokens=reported, counted_tokens=counted, **fields)
        for _ in range(count)
    )


def test_the_newest_calls_tell_the_ratio(user: Any) -> None:
    report(user, 500, 100)
    report(user, 150, 100)
    assert ratio_of("odd") == pytest.approx(1.5)
    assert ratio_of("another") == 1.0


def test_a_few_calls_tell_nothing(user: Any) -> None:
    report(user, 150, 100, count=RECORDS - 1)
    assert ratio_of("odd") == 1.0


def test_what_was_estimated_or_not_counted_is_not_compared(user: Any) -> None:
    report(user, 150, 100, is_estimated=True)
    report(user, 150, 0)
    assert ratio_of("odd") == 1.0


@pytest.mark.parametrize(("reported", "ratio"), [(0, 1.0), (1, 0.8), (1_000_000, 2.5)])
def test_a_provider_that_reports_nonsense_does_not_empty_the_prompt(user: Any, reported: int, ratio: float) -> None:
    report(user, reported, 100)
    assert ratio_of("odd") == ratio


def test_it_is_looked_up_once_a_minute(user: Any, django_assert_num_queries: Any) -> None:
    report(user, 150, 100)
    with django_assert_num_queries(1):
        assert ratio_of("odd") == ratio_of("odd") == pytest.approx(1.5)


def test_a_larger_count_of_the_providers_leaves_less_room() -> None:
    agent = AgentConfig("a", max_context_tokens=8_000, system_prompt="Be brief.")
    plain, odd = budget_of(agent), budget_of(agent, ratio=1.5)
    assert odd.limit == int(plain.limit / 1.5)
    assert (odd.room + odd.reserve + odd.system) * 1.5 <= 8_000

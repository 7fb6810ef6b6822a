"""Summaries of older turns, made in the background by a model that may be slow, silent or wrong."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import pytest
from django.db import connection
from django.db.models import Sum

from chat.context import summarizing
from chat.context.compaction import summarize_session
from sessions_app.models import AgentSession, AgentType, Message, Role, Run, Summary, SummaryLevel, UsageRecord
from sessions_app.services.sessions import create_session
from sessions_app.services.summaries import mark_told, restore_summary, revert_summary
from tests.fakes.processes import FakeOpenAIProcess

pytestmark = pytest.mark.django_db
MODEL = "summarizer"
STARTED = datetime(2026, 3, 1, 9, tzinfo=UTC)


@pytest.fixture(autouse=True)
def use_fake(fake: FakeOpenAIProcess, settings: Any) -> Iterator[None]:
    settings.MODEL_ENDPOINTS = {"default": {"base_url": fake.base_url, "api_key": "test"}}
    settings.SUMMARY_TIMEOUT_SECONDS = 1
    fake.break_models()
    summarizing._circuits.clear()
    yield
    fake.break_models()
    summarizing._circuits.clear()


@pytest.fixture
def session(user: Any) -> AgentSession:
    AgentType.objects.create(name="small", runtime="demo", max_context_tokens=2_400, summary_model=MODEL)
    return create_session(owner=user, agent_type="small")


def talk(session: AgentSession, turns: int, *, directive: str = "", days: int = 1) -> None:
    """Turns of a hundred tokens, spread evenly over days. The directive stands in the first of them."""
    runs = Run.objects.bulk_create(Run(session=session, turn=turn, status="succeeded") for turn in range(1, turns + 1))
    messages = []
    for run in runs:
        at = STARTED + timedelta(days=(run.turn - 1) * days // turns, minutes=run.turn)
        said = f"{directive if run.turn == 1 else ''} In turn {run.turn} we decided on garden {run.turn}. "
        for position, (role, text) in enumerate(((Role.USER, said + "word " * 35), (Role.ASSISTANT, "fine " * 50))):
            message = Message(session=session, run=run, turn=run.turn, position=position, role=role, content=text)
            message.token_count, message.created_at = 50, at
            messages.append(message)
    Message.objects.bulk_create(messages)
    AgentSession.objects.filter(pk=session.pk).update(next_turn=turns + 1)


def summarize_all(session: AgentSession) -> None:
    while summarize_session(session.pk):
        pass


def standing(session: AgentSession, level: SummaryLevel = SummaryLevel.TURNS) -> list[Summary]:
    found = Summary.objects.filter(session=session, level=level, replaced_at=None, reverted_at=None)
    return list(found.order_by("first_turn"))


def let_pause_pass() -> None:
    """As when the circuit has been open long enough."""
    summarizing._circuits.clear()


def test_the_oldest_turns_are_summarised_and_the_newest_left(session: AgentSession) -> None:
    talk(session, 20)
    summarize_all(session)
    found = standing(session)
    assert [each.made_by for each in found] == [MODEL] * len(found)
    assert [each.first_turn for each in found] == [1, *(each.last_turn + 1 for each in found[:-1])]
    assert 10 <= found[-1].last_turn < 20 - 5, "what fits 40% of the room is not summarised yet"
    assert all(each.tokens_before > each.tokens_after > 0 for each in found)
    assert Message.objects.filter(session=session).count() == 40


def test_what_fits_is_not_summarised(session: AgentSession) -> None:
    talk(session, 5)
    summarize_all(session)
    assert standing(session) == []


def test_repeating_it_makes_none_again(session: AgentSession, fake: FakeOpenAIProcess) -> None:
    talk(session, 20)
    summarize_all(session)
    before = list(Summary.objects.values())
    fake.forget_requests()
    assert summarize_session(session.pk) is False
    assert list(Summary.objects.values()) == before
    assert fake.requests() == []


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_two_workers_at_once_make_each_summary_once(session: AgentSession) -> None:
    talk(session, 30, days=3)

    def work(_: int) -> None:
        try:
            summarize_all(session)
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    for level in SummaryLevel:
        turns = [turn for each in standing(session, level) for turn in range(each.first_turn, each.last_turn + 1)]
        assert turns == sorted(set(turns)), "no turn is told twice"
    assert standing(session, SummaryLevel.DAY)


def test_what_the_model_used_is_charged_to_the_session(session: AgentSession) -> None:
    talk(session, 20)
    summarize_all(session)
    session.refresh_from_db()
    recorded = UsageRecord.objects.filter(session=session, purpose="summary", model=MODEL)
    assert recorded.count() == len(standing(session))
    assert not recorded.filter(is_estimated=True).exists()
    sums = recorded.aggregate(Sum("input_tokens"), Sum("output_tokens"))
    assert (session.input_tokens, session.output_tokens) == (sums["input_tokens__sum"], sums["output_tokens__sum"])
    assert session.input_tokens > 500


def test_a_usage_that_is_none_is_estimated(session: AgentSession) -> None:
    talk(session, 20, directive="[[odd_usage]]")
    summarize_all(session)
    (first, *_) = UsageRecord.objects.filter(session=session).order_by("id")
    assert first.is_estimated
    assert first.input_tokens > 100
    assert standing(session)[0].made_by == MODEL


FAULTS = ["[[hang times=1]]", "[[html times=1]]", "[[status=429 times=1]]", "[[cut=1 times=1]]"]
WRONG = ["[[tokens=2000 endless]]", "[[tokens=0]]"]


@pytest.mark.parametrize("directive", [*FAULTS, *WRONG])
def test_a_model_that_fails_leaves_an_extract_in_its_place(session: AgentSession, directive: str) -> None:
    """Slow, no JSON, an error, cut off; longer than what it was to summarise; nothing at all."""
    talk(session, 20, directive=directive)
    summarize_all(session)
    found = standing(session)
    assert [(each.made_by, each.is_fallback) for each in found] == [("extractive", True)] * len(found)
    assert "garden 2" in found[0].text
    assert found[0].tokens_after < found[0].tokens_before
    assert not UsageRecord.objects.filter(session=session).exists()


@pytest.mark.parametrize("directive", FAULTS)
def test_it_is_made_anew_when_the_model_is_back(session: AgentSession, directive: str) -> None:
    talk(session, 20, directive=directive)
    summarize_all(session)
    fallback = standing(session)[0]
    let_pause_pass()
    summarize_all(session)
    found = standing(session)
    assert [(each.made_by, each.is_fallback) for each in found] == [(MODEL, False)] * len(found)
    assert (found[0].first_turn, found[0].last_turn) == (fallback.first_turn, fallback.last_turn)
    fallback.refresh_from_db()
    assert fallback.replaced_at, "what stood before is kept, and known as replaced"


def test_a_model_that_goes_on_failing_changes_nothing(session: AgentSession, fake: FakeOpenAIProcess) -> None:
    """Or the session's clients would be told of the same extract after each try."""
    fake.break_models(MODEL)
    talk(session, 20)
    summarize_all(session)
    before = standing(session)
    mark_told(summary_ids=[each.pk for each in before])
    for _ in range(3):
        let_pause_pass()
        summarize_all(session)
    assert [each.pk for each in standing(session)] == [each.pk for each in before]
    assert Summary.objects.filter(session=session).count() == len(before)


def test_a_model_that_fails_is_left_alone(session: AgentSession, fake: FakeOpenAIProcess) -> None:
    fake.break_models(MODEL)
    talk(session, 20)
    summarize_all(session)
    assert len(standing(session)) > 2
    assert len(fake.requests()) == 1, "its circuit is open after the first try"


def test_days_are_summarised_once_they_are_over_and_then_the_session(session: AgentSession) -> None:
    talk(session, 60, days=5)
    summarize_all(session)
    days = standing(session, SummaryLevel.DAY)
    assert len(days) == 4
    assert len({each.first_at.date() for each in days}) == 4
    (whole,) = standing(session, SummaryLevel.SESSION)
    assert (whole.first_turn, whole.last_turn) == (1, days[-1].last_turn)
    assert whole.message_count == sum(each.message_count for each in days)


def test_short_days_are_told_together_and_none_is_missing(session: AgentSession) -> None:
    """One range a day: no day is worth a summary of its own."""
    talk(session, 60, days=20)
    summarize_all(session)
    ranges, days = standing(session), standing(session, SummaryLevel.DAY)
    assert max(len(list(group)) for _, group in groupby(ranges, key=lambda each: each.first_at.date())) == 1
    assert len(days) >= 5
    assert [each.first_turn for each in days] == [1, *(each.last_turn + 1 for each in days[:-1])]
    (whole,) = standing(session, SummaryLevel.SESSION)
    assert (whole.first_turn, whole.last_turn) in {(1, each.last_turn) for each in days[-3:]}


def test_coarser_summaries_are_made_anew_too(session: AgentSession, fake: FakeOpenAIProcess) -> None:
    fake.break_models(MODEL)
    talk(session, 60, days=5)
    summarize_all(session)
    assert {each.made_by for level in SummaryLevel for each in standing(session, level)} == {"extractive"}
    spans = {level: [(each.first_turn, each.last_turn) for each in standing(session, level)] for level in SummaryLevel}
    fake.break_models()
    let_pause_pass()
    summarize_all(session)
    assert {each.made_by for level in SummaryLevel for each in standing(session, level)} == {MODEL}
    assert spans == {
        level: [(each.first_turn, each.last_turn) for each in standing(session, level)] for level in SummaryLevel
    }


def test_what_was_reverted_is_not_made_again_until_it_is_restored(session: AgentSession) -> None:
    talk(session, 60, days=5)
    summarize_all(session)
    first = standing(session)[0]
    reverted = revert_summary(summary=first)
    assert {each.level for each in reverted} == set(SummaryLevel), "coarser ones that tell of its turns go with it"
    count = Summary.objects.filter(session=session).count()
    summarize_all(session)
    assert Summary.objects.filter(session=session).count() == count
    assert revert_summary(summary=first) == []
    restore_summary(summary=first)
    assert first.pk in [each.pk for each in standing(session)]


def test_without_a_model_the_extract_is_no_makeshift(session: AgentSession, fake: FakeOpenAIProcess) -> None:
    AgentType.objects.filter(name="small").update(summary_model="")
    AgentType.objects.get(name="small").save()
    talk(session, 20)
    summarize_all(session)
    assert {(each.made_by, each.is_fallback) for each in standing(session)} == {("extractive", False)}
    assert fake.requests() == []


def test_agents_that_use_no_summaries_get_none(session: AgentSession) -> None:
    agent_type = AgentType.objects.get(name="small")
    agent_type.context_strategy = "sliding_window"
    agent_type.save()
    talk(session, 20)
    assert summarize_session(session.pk) is False
    assert standing(session) == []

"""A summariser's tokens are money too: reserved before it is asked, and charged to the session."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from chat.context.extractive import Line
from chat.context.summarizing import MadeSummary, summarize
from monitoring import prices
from monitoring.ledger import differences
from monitoring.models import Account, Measure, Period, Price, Quota, Reservation, Scope
from sessions_app.models import AgentSession, SummaryLevel, UsageRecord
from sessions_app.services.sessions import create_session
from sessions_app.services.summaries import save_summary
from tests.fakes.processes import FakeOpenAIProcess

pytestmark = pytest.mark.django_db

LINES = [Line("user", f"Fact {number} is that the harbour has {number} piers.") for number in range(40)]


@pytest.fixture(autouse=True)
def use_fake(fake: FakeOpenAIProcess, settings: Any) -> Iterator[None]:
    settings.MODEL_ENDPOINTS = {"default": {"base_url": fake.base_url, "api_key": "test"}}
    Quota.objects.all().delete()
    prices.forget()
    fake.break_models()
    yield
    fake.break_models()


@pytest.fixture
def session(user: Any) -> AgentSession:
    return create_session(owner=user, agent_type="demo")


def limit(tokens: int) -> None:
    Quota.objects.create(name="b", scope=Scope.SESSION, measure=Measure.TOKENS, period=Period.TOTAL, limit=tokens)


def make(session: AgentSession, model: str = "summarizer") -> MadeSummary:
    return summarize(LINES, max_tokens=100, model=model, session_id=session.pk)


def save(session: AgentSession, made: MadeSummary) -> None:
    save_summary(
        session_id=session.pk,
        level=SummaryLevel.TURNS,
        turns=(1, 2),
        dates=(session.created_at, session.created_at),
        text=made.text,
        message_count=4,
        tokens=(900, 20),
        made_by=made.made_by,
        usage=made.usage,
    )


def test_it_is_charged_with_its_price(session: AgentSession) -> None:
    limit(5_000)
    Price.objects.create(model="summarizer", input_price=Decimal(1), output_price=Decimal(2))
    made = make(session)
    assert made.made_by == "summarizer"
    assert Account.objects.get().reserved > 600, "the worst case, until it is saved"
    save(session, made)
    record = UsageRecord.objects.get()
    assert record.purpose == "summary"
    assert record.cost == Decimal(record.input_tokens + 2 * record.output_tokens) / 1_000_000
    account = Account.objects.get()
    assert (account.used, account.reserved) == (record.input_tokens + record.output_tokens, 0)
    assert differences() == []


def test_without_room_the_model_is_not_asked(session: AgentSession, fake: FakeOpenAIProcess) -> None:
    limit(300)
    made = make(session)
    assert (made.made_by, made.is_fallback, made.usage) == ("extractive", False, None)
    assert made.text
    assert fake.requests() == []
    assert not Reservation.objects.exists()


def test_a_model_that_fails_costs_nothing(session: AgentSession, fake: FakeOpenAIProcess) -> None:
    limit(5_000)
    fake.break_models("summarizer-broken")
    made = make(session, "summarizer-broken")
    assert (made.made_by, made.is_fallback) == ("extractive", True)
    account = Account.objects.get()
    assert (account.used, account.reserved) == (0, 0)

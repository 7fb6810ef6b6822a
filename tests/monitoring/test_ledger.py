"""The ledger of budgets: nothing is promised twice, and what is settled is what the usage records say."""

import uuid
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group, User

from monitoring import ledger, prices
from monitoring.changing import delete_quota, save_quota
from monitoring.ledger import BudgetExceededError, ModelCall, charge_lost, differences, release, reserve
from monitoring.models import Account, Action, Measure, Period, Price, Quota, Reservation, Scope
from sessions_app.errors import StaleEpochError
from sessions_app.models import AgentSession, Run, RunStatus, UsageRecord
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def only_own_quotas(db: None) -> None:
    Quota.objects.all().delete()
    prices.forget()


@pytest.fixture
def session(user: User) -> AgentSession:
    return create_session(owner=user, agent_type="demo")


def budget(name: str = "b", *, scope: str = Scope.SESSION, limit: int | str = 1_000, **fields: Any) -> Quota:
    fields = {"measure": Measure.TOKENS, "period": Period.TOTAL, **fields}
    quota = Quota(name=name, scope=scope, limit=Decimal(limit), **fields)
    quota.full_clean()
    quota.save()
    return quota


def switch(quota: Quota, is_on: bool) -> None:
    quota.is_enabled = is_on
    save_quota(quota=quota, user=None)


def call(session: AgentSession, tokens: int, output: int = 0, **fields: Any) -> ModelCall:
    fields = {"models": ["m"], "min_output_tokens": output, **fields}
    return ModelCall(session.pk, input_tokens=tokens, output_tokens=output, **fields)


def settle(session: AgentSession, reservation_id: int | None, tokens: int, output: int = 0, cost: str = "0") -> None:
    UsageRecord.objects.create(
        owner=session.owner,
        session=session,
        agent_type=session.agent_type,
        input_tokens=tokens,
        output_tokens=output,
        cost=Decimal(cost),
        reservation_id=reservation_id,
    )


def only_account() -> Account:
    return Account.objects.get()


def test_without_a_budget_nothing_is_reserved(session: AgentSession) -> None:
    reserved = reserve(call(session, 10**6, 500))
    assert (reserved.id, reserved.output_tokens) == (None, 500)
    assert not Reservation.objects.exists()


def test_what_is_reserved_is_settled_to_what_was_used(session: AgentSession) -> None:
    budget()
    reserved = reserve(call(session, 300, 200))
    assert (only_account().used, only_account().reserved) == (0, 500)
    settle(session, reserved.id, 310, 20)
    assert (only_account().used, only_account().reserved) == (330, 0)
    assert not Reservation.objects.exists()
    assert differences() == []


def test_what_does_not_fit_is_refused_and_says_where(session: AgentSession) -> None:
    budget("small", limit=400)
    budget("large", limit=10_000, scope=Scope.SITE)
    reserve(call(session, 100, 100))
    with pytest.raises(BudgetExceededError) as refused:
        reserve(call(session, 200, 1))
    assert refused.value.quota.name == "small"
    assert (refused.value.left, refused.value.needed) == (200, 201)
    assert "small (400 tokens) has 200 left" in refused.value.message
    assert list(Account.objects.values_list("reserved", flat=True)) == [200, 200], "all or nothing"
    reserve(call(session, 199, 1))


def test_the_output_shrinks_to_what_is_left(session: AgentSession) -> None:
    budget(limit=1_000)
    assert reserve(call(session, 700, 4_000, min_output_tokens=64)).output_tokens == 300
    budget("other", limit=500, scope=Scope.USER)
    release(Reservation.objects.get().pk)
    assert reserve(call(session, 400, 4_000, min_output_tokens=64)).output_tokens == 100
    with pytest.raises(BudgetExceededError):
        reserve(call(session, 1, 64, min_output_tokens=64))


def test_a_released_reservation_leaves_no_trace(session: AgentSession) -> None:
    budget()
    reserved = reserve(call(session, 300, 200))
    assert reserved.id
    release(reserved.id)
    release(reserved.id)
    assert (only_account().used, only_account().reserved) == (0, 0)


def test_what_was_used_before_the_quota_was_made_counts(session: AgentSession) -> None:
    settle(session, None, 600)
    budget(limit=1_000)
    with pytest.raises(BudgetExceededError):
        reserve(call(session, 401))
    reserve(call(session, 400))
    assert differences() == []


def test_records_without_a_reservation_count_too(session: AgentSession) -> None:
    budget()
    reserve(call(session, 1))
    settle(session, None, 600)
    assert only_account().used == 600
    assert differences() == []


@pytest.mark.parametrize(
    ("scope", "holds_for_other"),
    [(Scope.SITE, True), (Scope.AGENT_TYPE, True), (Scope.USER, False), (Scope.SESSION, False), (Scope.GROUP, True)],
)
def test_each_scope_counts_for_its_own(
    session: AgentSession, other_user: User, scope: Scope, holds_for_other: bool
) -> None:
    group = Group.objects.create(name="g")
    group.user_set.add(session.owner, other_user)
    budget(limit=100, scope=scope)
    other = create_session(owner=other_user, agent_type="demo")
    reserve(call(session, 100))
    if holds_for_other:
        with pytest.raises(BudgetExceededError):
            reserve(call(other, 1))
    else:
        reserve(call(other, 100))


def test_a_quota_of_one_user_is_not_anothers(session: AgentSession, other_user: User) -> None:
    budget(limit=100, scope=Scope.USER, user=other_user)
    assert reserve(call(session, 101)).id is None
    with pytest.raises(BudgetExceededError):
        reserve(call(create_session(owner=other_user, agent_type="demo"), 101))


def test_a_runs_budget_is_each_runs_own(session: AgentSession) -> None:
    budget(limit=100, scope=Scope.RUN)
    runs = [Run.objects.create(session=session, turn=turn) for turn in (1, 2)]
    for run in runs:
        reserve(call(session, 100, run_id=run.pk, epoch=0))
    with pytest.raises(BudgetExceededError):
        reserve(call(session, 1, run_id=runs[0].pk, epoch=0))


def test_a_period_ends(session: AgentSession) -> None:
    quota = budget(limit=100, period=Period.HOUR)
    reserve(call(session, 100))
    Account.objects.update(period_start="2026-01-01T00:00:00Z")
    reserve(call(session, 100))
    assert Account.objects.filter(quota=quota).count() == 2


def test_what_was_reserved_before_the_hour_is_used_in_the_next(session: AgentSession) -> None:
    budget(limit=100, period=Period.HOUR)
    reserved = reserve(call(session, 80))
    Account.objects.update(period_start="2026-01-01T00:00:00Z")
    settle(session, reserved.id, 70)
    now, before = Account.objects.order_by("-period_start")
    assert (before.used, before.reserved) == (0, 0)
    reserve(call(session, 30))
    now.refresh_from_db()
    assert (now.used, now.reserved) == (70, 30)
    assert differences() == []


def test_money_is_counted_by_the_dearest_model_and_settled_by_the_real_one(session: AgentSession) -> None:
    Price.objects.create(model="m", input_price=Decimal(3), output_price=Decimal(15))
    Price.objects.create(model="cheap*", input_price=Decimal(1), output_price=Decimal(2))
    prices.forget()
    budget(limit="0.1", scope=Scope.SITE, measure=Measure.COST)
    reserved = reserve(call(session, 10_000, 4_000, models=["cheap-1", "m"]))
    assert reserved.output_tokens == 4_000
    assert only_account().reserved == 30_000 + 60_000
    with pytest.raises(BudgetExceededError) as refused:
        reserve(call(session, 1_000, 1_000))
    assert "(0.1 cost) has 0.01 left" in refused.value.message
    assert reserve(call(session, 1_000, 1_000, min_output_tokens=64)).output_tokens == 466
    settle(session, reserved.id, 10_000, 100, cost="0.0102")
    assert only_account().used == 10_200
    assert differences() == []


def test_a_warning_is_told_once(session: AgentSession) -> None:
    budget("soft", limit=100, action=Action.WARN)
    assert reserve(call(session, 79)).warnings == []
    told = reserve(call(session, 1)).warnings
    assert told == [{"budget": "soft", "measure": "tokens", "used": "80", "limit": "100"}]
    assert reserve(call(session, 500)).warnings == [], "it only warns"


def test_what_was_added_for_a_period_widens_it(session: AgentSession) -> None:
    budget(limit=100)
    reserve(call(session, 100))
    Account.objects.update(extra=50)
    reserve(call(session, 50))
    with pytest.raises(BudgetExceededError):
        reserve(call(session, 1))


def test_a_stale_writer_reserves_nothing(session: AgentSession) -> None:
    budget()
    run = Run.objects.create(session=session, turn=1)
    AgentSession.objects.filter(pk=session.pk).update(epoch=2)
    with pytest.raises(StaleEpochError):
        reserve(call(session, 1, run_id=run.pk, epoch=1))
    with pytest.raises(StaleEpochError):
        reserve(ModelCall(uuid.uuid4(), ["m"], 1, 1, 1))
    assert not Reservation.objects.exists()


def test_a_lost_call_is_charged_as_it_was_reserved(session: AgentSession) -> None:
    budget()
    run = Run.objects.create(session=session, turn=1, status=RunStatus.RUNNING, epoch=1)
    AgentSession.objects.filter(pk=session.pk).update(epoch=1)
    reserve(call(session, 300, 100, run_id=run.pk, epoch=1))
    assert charge_lost() == 0, "its worker may live"
    Run.objects.filter(pk=run.pk).update(epoch=2)
    assert charge_lost(run_id=run.pk) == 1
    assert charge_lost() == 0
    assert (only_account().used, only_account().reserved) == (400, 0)
    record = UsageRecord.objects.get()
    assert (record.purpose, record.input_tokens, record.output_tokens, record.is_estimated) == ("lost", 300, 100, True)
    session.refresh_from_db()
    run.refresh_from_db()
    assert (session.input_tokens, session.output_tokens) == (run.input_tokens, run.output_tokens) == (300, 100)
    assert differences() == []


def test_a_budget_may_change_while_a_call_is_under_way(session: AgentSession) -> None:
    """Switched off, switched on, made and deleted between reserving and settling: what is left is what was used."""
    off, deleted, later = budget("off"), budget("deleted"), budget("later", is_enabled=False)
    reserved = reserve(call(session, 300, 200))
    switch(off, False)
    switch(later, True)
    delete_quota(quota=deleted, user=None)
    budget("new")
    settle(session, reserved.id, 310, 20)
    assert not Reservation.objects.exists()
    assert not Account.objects.exclude(reserved=0).exists()
    switch(off, True)
    reserve(call(session, 1))
    assert {account.quota.name: account.used for account in Account.objects.all()} == dict.fromkeys(
        ["off", "later", "new"], 330
    )
    assert differences() == []


def test_a_wrong_account_is_found(session: AgentSession) -> None:
    budget()
    settle(session, reserve(call(session, 1)).id, 5)
    Account.objects.update(used=6)
    (difference,) = ledger.differences()
    assert (difference.used, difference.by_records) == (6, 5)


def test_a_purged_sessions_accounts_go_with_it(session: AgentSession) -> None:
    budget("each-session")
    budget("each-run", scope=Scope.RUN)
    budget("site", scope=Scope.SITE)
    run = Run.objects.create(session=session, turn=1, status=RunStatus.SUCCEEDED)
    reserved = reserve(call(session, 100, run_id=run.pk, epoch=0))
    settle(session, reserved.id, 100)
    UsageRecord.objects.update(run=run)
    session.delete()
    assert UsageRecord.objects.get().session_id is None
    assert [account.subject for account in Account.objects.all()] == ["site"]
    assert differences() == []


def test_a_groups_budget_is_that_of_its_members_of_now(session: AgentSession, other_user: User) -> None:
    group = Group.objects.create(name="g")
    group.user_set.add(session.owner)
    budget(limit=100, scope=Scope.GROUP)
    settle(session, reserve(call(session, 40)).id, 40)
    other = create_session(owner=other_user, agent_type="demo")
    settle(other, reserve(call(other, 50)).id, 50)
    other_user.groups.add(group)
    assert differences() == []
    with pytest.raises(BudgetExceededError):
        reserve(call(other, 11))
    reserve(call(session, 10))
    session.owner.groups.clear()
    assert differences() == []
    reserve(call(other, 40))


def test_a_deleted_persons_use_is_counted_no_more(session: AgentSession, other_user: User) -> None:
    budget(limit=100, scope=Scope.SITE)
    settle(session, reserve(call(session, 90)).id, 90)
    session.owner.delete()
    assert differences() == []
    reserve(call(create_session(owner=other_user, agent_type="demo"), 100))

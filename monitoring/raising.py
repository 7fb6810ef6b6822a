"""Raising a budget: for one session, user, run or whatever it counts for, in its period. Each is on record."""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import connection, transaction

from monitoring.models import Account, BudgetPause, Quota, QuotaChange
from monitoring.models.quota import plain
from monitoring.pausing import OWN_SCOPES, resume_paused
from monitoring.quota_rules import MAX_LIMIT
from sessions_app.errors import AgentsiteError, InvalidRequestError
from sessions_app.models import AgentSession, RunStatus


class BudgetNotFoundError(AgentsiteError):
    """No such budget applies to this session."""

    code = "budget_not_found"
    status = 404


class BudgetNotRaisableError(AgentsiteError):
    """Only an operator can raise this budget."""

    code = "budget_not_raisable"
    status = 403


@dataclass(frozen=True)
class BudgetState:
    """A budget as it stands for one session, in the quota's own measure."""

    quota: Quota
    subject: str
    period_start: datetime
    limit: Decimal
    used: Decimal
    reserved: Decimal
    pause: BudgetPause | None = None  # a run of the session that waits for it

    @property
    def left(self) -> Decimal:
        return max(self.limit - self.used - self.reserved, Decimal(0))


_OF_SESSION = """
SELECT b.quota_id, b.subject, b.period_start, COALESCE(a.extra, 0),
    CASE WHEN a.is_counted THEN a.used ELSE monitoring_sum(q.measure, q.period, b.subject, b.period_start) END,
    COALESCE(a.reserved, 0)
FROM monitoring_budgets(%s, %s, %s, %s, clock_timestamp()) b
JOIN monitoring_quota q ON q.id = b.quota_id
LEFT JOIN monitoring_account a
    ON (a.quota_id, a.subject, a.period_start) = (b.quota_id, b.subject, b.period_start)
"""


def budgets_of(session: AgentSession) -> list[BudgetState]:
    """The budgets that apply to a session now, with those of its run that waits for one."""
    waiting = BudgetPause.objects.filter(run__session=session, run__status=RunStatus.AWAITING_APPROVAL).first()
    run_id = waiting.run_id if waiting else None
    with connection.cursor() as cursor:
        cursor.execute(_OF_SESSION, [session.owner_id, session.agent_type_id, session.pk, run_id])
        rows = cursor.fetchall()
    quotas = Quota.objects.in_bulk([row[0] for row in rows])
    states = [_state(quotas[quota_id], *values) for quota_id, *values in rows]
    return [replace(state, pause=waiting) if _is_of(waiting, state) else state for state in states]


def _is_of(pause: BudgetPause | None, state: BudgetState) -> bool:
    return pause is not None and (pause.quota_id, pause.subject) == (state.quota.pk, state.subject)


def _state(quota: Quota, subject: str, start: datetime, extra: int, used: int, reserved: int) -> BudgetState:
    limit = quota.limit + quota.amount(extra)
    return BudgetState(quota, subject, start, limit, quota.amount(used), quota.amount(reserved))


def raise_for_owner(*, user: Any, session: AgentSession, quota_id: int, amount: Decimal) -> BudgetState:
    """Raise a budget of the owner's own session, as far as the quota lets owners.

    Raises BudgetNotFoundError, BudgetNotRaisableError, InvalidRequestError.
    """
    state = _find(session, quota_id)
    ceiling = state.quota.owner_limit
    if ceiling is None or state.quota.scope not in OWN_SCOPES:
        raise BudgetNotRaisableError()
    _raise(state, amount, user, ceiling=ceiling)
    return _find(session, quota_id)


def raise_account(*, account: Account, amount: Decimal, user: Any) -> None:
    """Raise it as an operator; raises InvalidRequestError."""
    quota = account.quota
    state = _state(quota, account.subject, account.period_start, account.extra, account.used, account.reserved)
    _raise(state, amount, user, ceiling=MAX_LIMIT)


def _find(session: AgentSession, quota_id: int) -> BudgetState:
    for state in budgets_of(session):
        if state.quota.pk == quota_id:
            return state
    raise BudgetNotFoundError()


def _raise(state: BudgetState, amount: Decimal, user: Any, *, ceiling: Decimal) -> None:
    if amount <= 0 or state.quota.units(amount) < 1:
        raise InvalidRequestError("`amount` is above 0.")
    with transaction.atomic():
        place: dict[str, Any] = {"quota": state.quota, "subject": state.subject, "period_start": state.period_start}
        Account.objects.get_or_create(**place)
        account = Account.objects.select_for_update(of=("self",)).get(**place)
        before = state.quota.limit + state.quota.amount(account.extra)
        if before + amount > ceiling:
            raise InvalidRequestError(f"The budget can be raised to {plain(ceiling)} at most.")
        account.extra += state.quota.units(amount)
        account.warned_at = None
        account.save(update_fields=["extra", "warned_at"])
        QuotaChange.objects.create(
            quota=state.quota,
            name=state.quota.name,
            subject=state.subject,
            before={"limit": plain(before)},
            after={"limit": plain(before + amount)},
            changed_by=user,
        )
    resume_paused()

"""Budgets: a model call's worst case is reserved before it, and its usage record settles it.

What is reserved and used never exceeds a budget, however many call at once. A call whose worker is lost is charged as
it was reserved: nobody knows what its provider has counted. The accounts are kept by monitoring/sql/ledger.sql.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from django.db import connection
from django.db.backends.utils import CursorWrapper

from monitoring.models import Account, Action, Quota
from monitoring.models.quota import plain
from monitoring.prices import PriceList, price_list
from sessions_app.errors import AgentsiteError, StaleEpochError


class BudgetExceededError(AgentsiteError):
    """This would exceed a budget."""

    code = "budget_exceeded"
    status = 429

    def __init__(self, message: str, *, quota: Quota, subject: str, needed: int, left: int) -> None:
        super().__init__(message)
        self.quota, self.subject, self.needed, self.left = quota, subject, needed, left

    @property
    def is_pause(self) -> bool:
        """Whether the run is to wait until somebody raises the budget."""
        return self.quota.action == Action.PAUSE


@dataclass(frozen=True)
class ModelCall:
    """One that is about to be made. `models` are those of which one will answer; `output_tokens` is what is wanted.

    `epoch` is the run's; a summary has neither run nor epoch.
    """

    session_id: uuid.UUID
    models: Sequence[str]
    input_tokens: int
    output_tokens: int
    min_output_tokens: int
    run_id: uuid.UUID | None = None
    epoch: int | None = None
    purpose: str = "answer"


@dataclass(frozen=True)
class Reserved:
    """What a call may use. Without an id no budget applies, and the output is as it was wanted.

    `warnings`: budgets that are nearly used up by now, each told once a period.
    """

    id: int | None
    output_tokens: int
    prices: PriceList
    warnings: list[dict[str, Any]] = field(default_factory=list)


_RESERVE = """
SELECT * FROM monitoring_reserve(
    %(session_id)s, %(run_id)s, %(epoch)s, %(purpose)s, %(model)s,
    %(input)s::integer, %(output)s::integer, %(min_output)s::integer, %(input_price)s::bigint, %(output_price)s::bigint)
"""


def reserve(call: ModelCall) -> Reserved:
    """Reserve the worst case in every budget that applies, all or nothing.

    Raises BudgetExceededError, and StaleEpochError if the session has another writer by now.
    """
    prices = price_list()
    rates = prices.dearest(call.models)
    values = {
        "session_id": call.session_id,
        "run_id": call.run_id,
        "epoch": call.epoch,
        "purpose": call.purpose,
        "model": call.models[0] if call.models else "",
        "input": call.input_tokens,
        "output": call.output_tokens,
        "min_output": min(call.min_output_tokens, call.output_tokens),
        "input_price": rates.input,
        "output_price": rates.output,
    }
    with connection.cursor() as cursor:
        cursor.execute(_RESERVE, values)
        status, reservation_id, output, quota_id, subject, needed, left, warnings = cursor.fetchone()
    if status == "stale":
        raise StaleEpochError()
    if status == "refused":
        raise _exceeded(quota_id, subject, needed, left)
    if status != "granted":
        raise RuntimeError(f"The ledger answered {status!r}.")
    return Reserved(reservation_id, output, prices, _warnings(warnings))


def _exceeded(quota_id: int, subject: str, needed: int, left: int) -> BudgetExceededError:
    quota = Quota.objects.get(pk=quota_id)
    text = (
        f"The budget {quota.name} ({plain(quota.limit)} {quota.measure}{_per(quota)}) has {_shown(quota, left)} "
        f"left; the next answer needs {_shown(quota, needed)}."
    )
    return BudgetExceededError(text, quota=quota, subject=subject, needed=needed, left=max(left, 0))


def _shown(quota: Quota, units: int) -> str:
    return quota.shown(max(units, 0))


def _per(quota: Quota) -> str:
    return "" if quota.period == "total" else f" a {quota.period}"


def _warnings(found: str | None) -> list[dict[str, Any]]:
    """As clients are told of them."""
    rows = orjson.loads(found) if found else []
    quotas = Quota.objects.in_bulk([row["quota_id"] for row in rows]) if rows else {}
    return [
        {
            "budget": quotas[row["quota_id"]].name,
            "measure": quotas[row["quota_id"]].measure,
            "used": _shown(quotas[row["quota_id"]], row["taken"]),
            "limit": _shown(quotas[row["quota_id"]], row["units"]),
        }
        for row in rows
    ]


def release(reservation_id: int) -> None:
    """The call was not made, or gave nothing."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT monitoring_release(%s)", [reservation_id])


_LOST = """
SELECT r.id FROM monitoring_reservation r LEFT JOIN sessions_app_run run ON run.id = r.run_id
WHERE (%(run_id)s::uuid IS NULL OR r.run_id = %(run_id)s) AND CASE
    WHEN r.run_id IS NULL THEN r.created_at < clock_timestamp() - %(alone_seconds)s * interval '1 second'
    ELSE run.status <> 'running' OR run.epoch IS DISTINCT FROM r.epoch END
ORDER BY r.id
"""
_CHARGE = """
WITH lost AS (  -- what is lost once is lost for good: it is charged here, or has been meanwhile
    SELECT r.* FROM monitoring_reservation r WHERE r.id = %s FOR UPDATE SKIP LOCKED
), charged AS (
    INSERT INTO sessions_app_usagerecord (
        session_id, owner_id, agent_type_id, run_id, created_at, model, purpose, input_tokens, output_tokens,
        cached_tokens, reasoning_tokens, is_estimated, counted_tokens, tool_calls, cost, reservation_id)
    SELECT s.id, s.owner_id, s.agent_type_id, lost.run_id, clock_timestamp(), lost.model, 'lost', lost.input_tokens,
        lost.output_tokens, 0, 0, true, 0, 0, lost.cost / 1000000.0, lost.id
    FROM lost JOIN sessions_app_agentsession s ON s.id = lost.session_id
    RETURNING session_id, run_id, input_tokens, output_tokens, cost
), run AS (
    UPDATE sessions_app_run r
    SET input_tokens = r.input_tokens + charged.input_tokens, output_tokens = r.output_tokens + charged.output_tokens,
        cost = r.cost + charged.cost
    FROM charged WHERE r.id = charged.run_id
), session AS (
    UPDATE sessions_app_agentsession s
    SET input_tokens = s.input_tokens + charged.input_tokens, output_tokens = s.output_tokens + charged.output_tokens
    FROM charged WHERE s.id = charged.session_id
)
SELECT count(*) FROM charged
"""
ALONE_SECONDS = 600.0  # a call without a run (a summary's) is lost if it takes longer


def charge_lost(*, run_id: uuid.UUID | None = None) -> int:
    """Charge calls whose worker is gone: their run has another one by now, or has ended. Of one run, or of all.

    Each in a transaction of its own: the accounts of two calls together would be locked out of order. Harmless if
    repeated, or if two do it at once. Returns how many there were.
    """
    with connection.cursor() as cursor:
        cursor.execute(_LOST, {"run_id": run_id, "alone_seconds": ALONE_SECONDS})
        lost = [reservation_id for (reservation_id,) in cursor.fetchall()]
        return sum(_charge(cursor, reservation_id) for reservation_id in lost)


def _charge(cursor: CursorWrapper, reservation_id: int) -> int:
    cursor.execute(_CHARGE, [reservation_id])
    return int(cursor.fetchone()[0])


@dataclass(frozen=True)
class Difference:
    """An account that does not say what the usage records say."""

    account: Account
    used: int
    by_records: int


def differences() -> list[Difference]:
    """All of them: the ledger is right if there are none. Reads every record; for checks, not for requests."""
    found = []
    with connection.cursor() as cursor:
        for account in Account.objects.filter(is_counted=True).select_related("quota"):
            quota = account.quota
            place: list[Any] = [quota.measure, quota.period, account.subject, account.period_start]
            cursor.execute("SELECT monitoring_sum(%s, %s, %s, %s)", place)
            (total,) = cursor.fetchone()
            if total != account.used:
                found.append(Difference(account, account.used, total))
    return found

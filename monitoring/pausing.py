"""Runs that a budget has stopped: parked with the reason on record, and queued again when it has room for them."""

from typing import Any

from django.db import connection, transaction

from monitoring.ledger import BudgetExceededError
from monitoring.models import BudgetPause, Scope
from sessions_app.models import RunStatus
from sessions_app.services.claiming import Claim
from sessions_app.services.deciding import go_on
from sessions_app.services.recording import Step, park_run

OWN_SCOPES = (Scope.SESSION, Scope.RUN, Scope.USER)  # of those, an owner may be allowed to raise budgets


def as_question(error: BudgetExceededError) -> dict[str, Any]:
    """What whoever watches the run is told: which budget, how much is left of it, how much is needed."""
    quota = error.quota
    return {
        "budget": quota.name,
        "budget_id": quota.pk,
        "measure": quota.measure,
        "needed": quota.shown(error.needed),
        "left": quota.shown(error.left),
        "message": error.message,
        "owner_may_raise": quota.owner_limit is not None and quota.scope in OWN_SCOPES,
    }


@transaction.atomic
def pause_run(*, claim: Claim, step: Step, error: BudgetExceededError, agent_state: Any) -> None:
    """Park a run without a worker; raises StaleEpochError, CancelRequestedError."""
    park_run(claim=claim, step=step, agent_state=agent_state)
    pause = {"quota": error.quota, "subject": error.subject, "needed": error.needed}
    BudgetPause.objects.update_or_create(run_id=claim.run_id, defaults=pause)


# The accounts of now: a pause of yesterday's budget ends today.
_READY = """
SELECT p.run_id, r.status FROM monitoring_budgetpause p
JOIN sessions_app_run r ON r.id = p.run_id
JOIN monitoring_quota q ON q.id = p.quota_id
LEFT JOIN monitoring_account a ON a.quota_id = p.quota_id AND a.subject = p.subject AND a.is_counted
    AND a.period_start = CASE q.period
        WHEN 'total' THEN timestamptz 'epoch' ELSE date_trunc(q.period, clock_timestamp(), 'UTC') END
WHERE r.status <> %(parked)s OR NOT q.is_enabled OR q.action = 'warn'
    OR monitoring_limit_units(q.measure, q."limit") + COALESCE(a.extra - a.used - a.reserved, 0) >= p.needed
ORDER BY p.created_at LIMIT %(limit)s
"""


def resume_paused(*, limit: int = 200) -> int:
    """Let go on what its budget has room for by now; returns how many runs that are."""
    with connection.cursor() as cursor:
        cursor.execute(_READY, {"parked": RunStatus.AWAITING_APPROVAL.value, "limit": limit})
        ready = cursor.fetchall()
    resumed = 0
    for run_id, status in ready:
        with transaction.atomic():
            if not BudgetPause.objects.filter(pk=run_id).delete()[0]:
                continue  # somebody else lets it go on
            if status == RunStatus.AWAITING_APPROVAL:
                resumed += go_on(run_id=run_id)
    return resumed

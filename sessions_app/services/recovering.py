"""What becomes of runs whose lease ran out."""

import uuid
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone

from sessions_app.models import AgentSession, Run, RunStatus
from sessions_app.services.ending import end_without_worker
from sessions_app.services.telling import Told

WORKER_LOST = "worker_lost"
_LEASE_RAN_OUT = Q(lease_expires_at=None) | Q(lease_expires_at__lt=Now())  # by the database's clock, as it was set


def overdue_runs(*, limit: int = 1_000) -> list[uuid.UUID]:
    """Running runs whose lease ran out."""
    running = Run.objects.filter(_LEASE_RAN_OUT, status=RunStatus.RUNNING)
    return list(running.order_by("lease_expires_at").values_list("pk", flat=True)[:limit])


@dataclass(frozen=True)
class Recovered:
    """What became of an overdue run: queued again, or ended with these events."""

    run_id: uuid.UUID
    told: Told | None


@transaction.atomic
def recover_run(*, run_id: uuid.UUID) -> Recovered | None:
    """Take an overdue run from its worker, which can write no more: the session's epoch goes on.

    None if its lease was renewed meanwhile, or if another sweeper was faster.
    """
    session = AgentSession.objects.select_for_update().filter(runs=run_id).first()
    runs = Run.objects.filter(_LEASE_RAN_OUT, pk=run_id, status=RunStatus.RUNNING)
    run = runs.select_for_update().select_related("session__agent_type").first() if session else None
    if session is None or run is None:
        return None
    AgentSession.objects.filter(pk=session.pk).update(worked_ms=F("worked_ms") + _worked_ms(run))
    max_attempts = run.session.agent_type.max_attempts
    if run.cancel_requested_at is not None:
        return Recovered(run.pk, end_without_worker(run, RunStatus.CANCELLED, code=WORKER_LOST))
    if run.attempt >= max_attempts:
        reason = f"Its worker was stopped or lost, at each of {run.attempt} attempts."
        return Recovered(run.pk, end_without_worker(run, RunStatus.FAILED, code=WORKER_LOST, reason=reason))
    AgentSession.objects.filter(pk=session.pk).update(epoch=F("epoch") + 1)
    run.status, run.lease_expires_at, run.dispatched_at = RunStatus.QUEUED, None, timezone.now()
    run.save(update_fields=["status", "lease_expires_at", "dispatched_at"])
    return Recovered(run.pk, None)


def _worked_ms(run: Run) -> int:
    """How long a lost attempt was at work: until the last sign of its worker, which is when it renewed the lease."""
    if run.claimed_at is None or run.lease_expires_at is None:
        return 0
    last_sign = run.lease_expires_at - timedelta(seconds=settings.RUN_LEASE_SECONDS)
    return max(0, round((last_sign - run.claimed_at).total_seconds() * 1_000))

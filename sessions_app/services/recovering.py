"""Runs whose worker is gone: they end as failed, so that their sessions go on."""

import uuid
from collections.abc import Collection
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from sessions_app import facts
from sessions_app.models import AgentSession, Run, RunStatus
from sessions_app.services.recording import NewEvent
from sessions_app.services.telling import Told, record_told

WORKER_LOST = "worker_lost"
_MESSAGE = "The worker that ran this was stopped or lost. Send the message again."


def lost_runs(*, living_workers: Collection[str], grace: timedelta) -> list[uuid.UUID]:
    """Running runs whose worker sends no heartbeat; `grace` is the time that a young run is left alone."""
    running = Run.objects.filter(status=RunStatus.RUNNING, started_at__lt=timezone.now() - grace)
    return list(running.exclude(worker__in=living_workers).values_list("pk", flat=True))


@transaction.atomic
def fail_lost_run(*, run_id: uuid.UUID) -> Told | None:
    """End a run in its worker's place, under a new epoch: should the worker live after all, it can write no more.

    None if the run has ended meanwhile.
    """
    session = AgentSession.objects.select_for_update().filter(runs=run_id).first()
    if session is None:
        return None
    session.epoch += 1
    failed = Run.objects.filter(pk=run_id, status=RunStatus.RUNNING).update(
        status=RunStatus.FAILED,
        epoch=session.epoch,
        finished_at=timezone.now(),
        error_code=WORKER_LOST,
        error_message=_MESSAGE,
    )
    if not failed:
        return None
    session.save(update_fields=["epoch"])
    discard = {"run_id": str(run_id), "reason": WORKER_LOST}
    events = [
        NewEvent(1, 1, "discard", discard, run_id),
        NewEvent(2, 2, "error", facts.failed(run_id, WORKER_LOST, _MESSAGE), run_id),
    ]
    record_told(session_id=session.pk, epoch=session.epoch, events=events)
    return Told(session.pk, session.epoch, events)

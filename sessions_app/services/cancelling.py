"""Cancel: the intent is a row first, then a hint to the worker that holds the session."""

import uuid
from dataclasses import dataclass, field
from functools import partial

from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from sessions_app import facts
from sessions_app.models import AgentSession, Message, Run, RunStatus
from sessions_app.models.run import ACTIVE_STATUSES, UNTOLD
from sessions_app.services.recording import NewEvent, drop_open_calls
from sessions_app.services.telling import Told, record_told
from sessions_app.signals import cancel_requested, runs_cancelled


@dataclass
class CancelResult:
    """Which runs are cancelled now, and which still run and were asked to stop.

    `told` are the events of the first kind; empty while a worker holds the session, for then it tells.
    """

    cancelled: list[Run] = field(default_factory=list)
    cancelling: list[Run] = field(default_factory=list)
    told: Told | None = None


@transaction.atomic
def request_cancel(
    *, session: AgentSession, run_id: uuid.UUID | None = None, is_rollback: bool = False
) -> CancelResult:
    """Cancel what waits, ask what runs to stop; without `run_id` all that is active in the session.

    `is_rollback` removes them from the history too. Harmless if repeated.
    """
    # The lock keeps claims out meanwhile: what is queued here stays queued until it is cancelled.
    locked = AgentSession.objects.select_for_update().get(pk=session.pk)
    active = list(Run.objects.filter(session=session, status__in=ACTIVE_STATUSES).order_by("turn"))
    result = CancelResult()
    for run in active:
        if run_id in (None, run.pk):
            _cancel(run, result, is_rollback)
    if result.cancelled:
        ids = [run.pk for run in result.cancelled]
        transaction.on_commit(partial(runs_cancelled.send, Run, run_ids=ids))
    worker = next((run.worker for run in active if run.status == RunStatus.RUNNING), None)
    if worker is not None:
        transaction.on_commit(partial(cancel_requested.send, Run, session_id=session.pk, worker=worker))
    else:
        result.told = _tell_without_worker(locked)
    return result


def _cancel(run: Run, result: CancelResult, is_rollback: bool) -> None:
    run.cancel_requested_at = run.cancel_requested_at or timezone.now()
    run.is_rolled_back = run.is_rolled_back or is_rollback
    if run.status == RunStatus.RUNNING:
        result.cancelling.append(run)
    else:
        run.status, run.finished_at = RunStatus.CANCELLED, timezone.now()
        drop_open_calls(run.pk)
        result.cancelled.append(run)
    run.save(update_fields=["cancel_requested_at", "is_rolled_back", "status", "finished_at"])


# --- telling of runs that were cancelled while they waited: their events still need a writer ------------------------


def untold_runs(session_id: uuid.UUID) -> list[tuple[Run, Message]]:
    """Runs that were cancelled while no worker had them and whose end no event has told yet, with their messages."""
    runs = Run.objects.filter(UNTOLD, session_id=session_id)
    messages = Message.objects.filter(run__in=runs, position=0)
    return [(message.run, message) for message in messages.select_related("run").order_by("turn")]


def untold_sessions(*, limit: int = 100) -> list[uuid.UUID]:
    """Sessions with untold runs that no worker holds: the one that was to tell of them is gone."""
    running = Run.objects.filter(session_id=OuterRef("session_id"), status=RunStatus.RUNNING)
    message = Message.objects.filter(run_id=OuterRef("pk"), position=0)
    found = Run.objects.filter(UNTOLD, ~Exists(running), Exists(message)).order_by("session_id")
    return list(found.values_list("session_id", flat=True).distinct()[:limit])


@transaction.atomic
def tell_without_worker(*, session_id: uuid.UUID) -> Told | None:
    """Tell of the untold runs of a session that no worker holds; None if one does or if there are none."""
    locked = AgentSession.objects.select_for_update().filter(pk=session_id).first()
    if locked is None or Run.objects.filter(session=locked, status=RunStatus.RUNNING).exists():
        return None
    return _tell_without_worker(locked)


def _tell_without_worker(locked: AgentSession) -> Told | None:
    pairs = untold_runs(locked.pk)
    if not pairs:
        return None
    locked.epoch += 1
    locked.save(update_fields=["epoch"])
    told = [fact for run, message in pairs for fact in facts.cancelled_run(run, message)]
    events = [NewEvent(seq, seq, type_, data, run_id) for seq, (type_, data, run_id) in enumerate(told, 1)]
    Run.objects.filter(pk__in=[run.pk for run, _ in pairs]).update(epoch=locked.epoch)
    record_told(epoch=locked.epoch, session_id=locked.pk, events=events)
    return Told(locked.pk, locked.epoch, events)


def cancel_requested_among(run_ids: list[uuid.UUID]) -> list[uuid.UUID]:
    """Those of the runs that somebody wants to stop."""
    wanted = Run.objects.filter(pk__in=run_ids).exclude(cancel_requested_at=None)
    return list(wanted.values_list("pk", flat=True))

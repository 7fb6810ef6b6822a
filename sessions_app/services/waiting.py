"""Telling of runs that wait for a free slot: that they do, at which place, and that they have waited too long."""

import uuid
from collections.abc import Mapping
from operator import itemgetter

from django.db import transaction
from django.db.models import Max

from sessions_app import facts
from sessions_app.models import AgentSession, Event, Message, Run, RunStatus
from sessions_app.services.ending import end_without_worker
from sessions_app.services.recording import NewEvent
from sessions_app.services.telling import Told, record_told

SLOT_TIMEOUT = "slot_timeout"


@transaction.atomic
def tell_waiting(*, run_id: uuid.UUID, position: int) -> Told | None:
    """Record that a run waits at this place; None if it does not wait any more, or if this was told last.

    Nobody writes in its session meanwhile: it takes an epoch of its own, and goes on in that until another is taken.
    """
    session = AgentSession.objects.select_for_update().filter(runs=run_id).first()
    run = Run.objects.filter(pk=run_id, status=RunStatus.QUEUED).first() if session else None
    if session is None or run is None:
        return None
    goes_on = run.waiting_position is not None and run.epoch == session.epoch
    if goes_on and run.waiting_position == position:
        return None
    told = [] if goes_on else _message(run)
    told.append(("status", facts.waiting(run.pk, position)))
    seq = 1
    if goes_on:
        newest = Event.objects.filter(session=session, epoch=session.epoch).aggregate(seq=Max("seq"))
        seq = (newest["seq"] or 0) + 1
    else:
        session.epoch += 1
        session.save(update_fields=["epoch"])
    run.epoch, run.waiting_position = session.epoch, position
    run.save(update_fields=["epoch", "waiting_position"])
    events = [NewEvent(number, number, type, data, run.pk) for number, (type, data) in enumerate(told, seq)]
    record_told(session_id=session.pk, epoch=session.epoch, events=events)
    return Told(session.pk, session.epoch, events)


def changed_positions(positions: Mapping[uuid.UUID, int], *, limit: int) -> dict[uuid.UUID, int]:
    """Those of the places that differ from what was told last, the first of them."""
    runs = Run.objects.filter(pk__in=positions, status=RunStatus.QUEUED)
    told = dict(runs.values_list("pk", "waiting_position"))
    changed = {run_id: positions[run_id] for run_id, last in told.items() if positions[run_id] != last}
    return dict(sorted(changed.items(), key=itemgetter(1))[:limit])


def _message(run: Run) -> list[tuple[str, dict[str, object]]]:
    """The first event of a run, if it was not told yet."""
    if run.started_at is not None or run.waiting_position is not None:
        return []
    message = Message.objects.get(run=run, position=0)
    return [("message", facts.message(message.pk, run.pk, message.content))]


@transaction.atomic
def end_waiting(*, run_id: uuid.UUID, seconds: int) -> Told | None:
    """End a run that has waited too long; None if it does not wait any more."""
    session = AgentSession.objects.select_for_update().filter(runs=run_id).first()
    run = Run.objects.filter(pk=run_id, status=RunStatus.QUEUED).first() if session else None
    if run is None:
        return None
    reason = f"No slot became free within {seconds} seconds: too many runs are at work. Try again later."
    return end_without_worker(run, RunStatus.FAILED, code=SLOT_TIMEOUT, reason=reason)

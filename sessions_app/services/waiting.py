"""Telling of runs that wait for a free slot: that they do, at which place, and that they have waited too long."""

import uuid
from collections.abc import Mapping
from operator import itemgetter

import orjson
from django.db import connection, transaction

from sessions_app import facts
from sessions_app.models import AgentSession, Run, RunStatus
from sessions_app.services.ending import end_without_worker
from sessions_app.services.recording import NewEvent
from sessions_app.services.telling import Told

SLOT_TIMEOUT = "slot_timeout"


_LOCK = """
SELECT s.id, s.epoch FROM sessions_app_agentsession s
WHERE s.id = (SELECT r.session_id FROM sessions_app_run r WHERE r.id = %s) FOR UPDATE
"""
# The message only if it was not told yet.
_READ = """
SELECT r.epoch, r.waiting_position, m.id, m.content, (
    SELECT max(e.seq) FROM sessions_app_event e WHERE e.session_id = r.session_id AND e.epoch = r.epoch)
FROM sessions_app_run r LEFT JOIN sessions_app_message m
    ON m.run_id = r.id AND m.position = 0 AND r.started_at IS NULL AND r.waiting_position IS NULL
WHERE r.id = %s AND r.status = 'queued'
"""
_WRITE = """
WITH session AS (
    UPDATE sessions_app_agentsession SET epoch = %(epoch)s WHERE id = %(session_id)s AND epoch <> %(epoch)s
), run AS (
    UPDATE sessions_app_run SET epoch = %(epoch)s, waiting_position = %(position)s WHERE id = %(run_id)s
)
INSERT INTO sessions_app_event (session_id, run_id, epoch, created_at, first_seq, seq, type, data)
SELECT %(session_id)s, %(run_id)s, %(epoch)s, clock_timestamp(), new.first_seq, new.seq, new.type, new.data
FROM jsonb_to_recordset(%(events)s) AS new(first_seq int, seq int, type text, data jsonb)
"""


@transaction.atomic
def tell_waiting(*, run_id: uuid.UUID, position: int) -> Told | None:
    """Record that a run waits at this place; None if it does not wait any more, or if this was told last.

    Nobody writes in its session meanwhile: it takes an epoch of its own, and goes on in that until another is taken.
    """
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [run_id])
        locked = cursor.fetchone()
        cursor.execute(_READ, [run_id])  # sees what was committed before the lock was had
        run = cursor.fetchone()
        if locked is None or run is None:
            return None
        session_id, epoch = locked
        run_epoch, told_position, message_id, content, newest_seq = run
        goes_on = told_position is not None and run_epoch == epoch
        if goes_on and told_position == position:
            return None
        told = [("message", facts.message(message_id, run_id, content))] if message_id else []
        told.append(("status", facts.waiting(run_id, position)))
        first_seq = (newest_seq or 0) + 1 if goes_on else 1
        epoch = epoch if goes_on else epoch + 1
        events = [NewEvent(seq, seq, type, data, run_id) for seq, (type, data) in enumerate(told, first_seq)]
        values = {"session_id": session_id, "run_id": run_id, "epoch": epoch, "position": position}
        cursor.execute(_WRITE, {**values, "events": orjson.dumps(events).decode()})
    return Told(session_id, epoch, events)


def changed_positions(positions: Mapping[uuid.UUID, int], *, limit: int) -> dict[uuid.UUID, int]:
    """Those of the places that differ from what was told last, the first of them."""
    runs = Run.objects.filter(pk__in=positions, status=RunStatus.QUEUED)
    told = dict(runs.values_list("pk", "waiting_position"))
    changed = {run_id: positions[run_id] for run_id, last in told.items() if positions[run_id] != last}
    return dict(sorted(changed.items(), key=itemgetter(1))[:limit])


@transaction.atomic
def end_waiting(*, run_id: uuid.UUID, seconds: int) -> Told | None:
    """End a run that has waited too long; None if it does not wait any more."""
    session = AgentSession.objects.select_for_update().filter(runs=run_id).first()
    run = Run.objects.filter(pk=run_id, status=RunStatus.QUEUED).first() if session else None
    if run is None:
        return None
    reason = f"No slot became free within {seconds} seconds: too many runs are at work. Try again later."
    return end_without_worker(run, RunStatus.FAILED, code=SLOT_TIMEOUT, reason=reason)

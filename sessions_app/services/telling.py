"""Telling of runs that ended without a worker's own word: their last events still have to be recorded and streamed."""

import uuid
from dataclasses import dataclass

from django.db import transaction

from sessions_app import facts
from sessions_app.cursor import Cursor
from sessions_app.models import AgentSession, Event, Run
from sessions_app.services.recording import NewEvent, remove_from_history


@dataclass(frozen=True)
class Told:
    """Events that were recorded without a worker, under an epoch of their own, for the stream."""

    session_id: uuid.UUID
    epoch: int
    events: list[NewEvent]


@transaction.atomic
def record_told(*, session_id: uuid.UUID, epoch: int, events: list[NewEvent]) -> None:
    """Record events that end other runs than the claim's; a stale epoch records nothing."""
    if not AgentSession.objects.select_for_update().filter(pk=session_id, epoch=epoch).exists():
        return
    Event.objects.bulk_create(
        Event(
            session_id=session_id,
            run_id=str(event.run_id),
            epoch=epoch,
            first_seq=event.first_seq,
            seq=event.seq,
            type=event.type,
            data=event.data,
        )
        for event in events
    )
    for event in events:
        if event.type in facts.TERMINAL_TYPES:
            Run.objects.filter(pk=str(event.run_id)).update(terminal_cursor=str(Cursor(epoch, event.seq)))
        if event.run_id and event.data.get("rolled_back"):
            remove_from_history(event.run_id)

"""Steering: a message that comes while a turn runs enters that turn at its next step."""

from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone

from sessions_app import facts
from sessions_app.cursor import Cursor
from sessions_app.errors import StaleEpochError
from sessions_app.models import AgentSession, Message, Run, RunStatus
from sessions_app.services.claiming import Claim
from sessions_app.services.recording import NewEvent
from sessions_app.services.telling import record_told


@dataclass(frozen=True)
class Absorbed:
    """What the running turn took in: the messages in order, and the events that tell of it."""

    messages: list[Message]
    events: list[NewEvent]


@transaction.atomic
def absorb_steering(*, claim: Claim, position: int, seq: int) -> Absorbed:
    """Move the messages that wait to steer this turn into it, from `position` on; their own runs end with that.

    Their events take the ids behind `seq`. Raises StaleEpochError.
    """
    if not AgentSession.objects.select_for_update().filter(pk=claim.session_id, epoch=claim.epoch).exists():
        raise StaleEpochError()
    waiting = Run.objects.filter(session_id=claim.session_id, status=RunStatus.QUEUED, is_steering=True)
    absorbed = Absorbed([], [])
    for run in waiting.order_by("turn"):
        message = Message.objects.get(run=run, position=0)
        message.turn, message.position = claim.turn, position + len(absorbed.messages)
        message.save(update_fields=["turn", "position"])
        absorbed.messages.append(message)
        run.status, run.steered_into_id, run.epoch = RunStatus.SUCCEEDED, claim.run_id, claim.epoch
        run.started_at = run.finished_at = timezone.now()
        run.terminal_cursor = str(Cursor(claim.epoch, seq + 2))
        run.save()
        told = [
            ("message", facts.message(message.pk, run.pk, message.content)),
            ("done", facts.done(run.pk, facts.usage_of(run), steered_into=claim.run_id)),
        ]
        for type, data in told:
            seq += 1
            absorbed.events.append(NewEvent(seq, seq, type, data, run.pk))
    record_told(session_id=claim.session_id, epoch=claim.epoch, events=absorbed.events)
    return absorbed

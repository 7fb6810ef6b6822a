"""The end of a run that no worker tells of: it is lost, or there is none while the run waits."""

from typing import Any

from django.db.models import F
from django.utils import timezone

from sessions_app import facts
from sessions_app.models import AgentSession, Message, Run, RunStatus
from sessions_app.services.recording import NewEvent, drop_open_calls
from sessions_app.services.telling import Told, record_told


def end_without_worker(run: Run, status: RunStatus, *, code: str, reason: str = "") -> Told:
    """End a run in its worker's place, under a new epoch: whoever still writes for it can write no more.

    The session's row is locked by the caller's transaction.
    """
    AgentSession.objects.filter(pk=run.session_id).update(epoch=F("epoch") + 1)
    epoch = AgentSession.objects.values_list("epoch", flat=True).get(pk=run.session_id)
    run.status, run.epoch, run.finished_at, run.lease_expires_at = status, epoch, timezone.now(), None
    run.error_code, run.error_message = (code, reason) if status == RunStatus.FAILED else ("", "")
    run.save(update_fields=["status", "epoch", "finished_at", "lease_expires_at", "error_code", "error_message"])
    drop_open_calls(run.pk)
    usage = facts.usage_of(run)
    if status == RunStatus.CANCELLED:
        last = ("cancelled", facts.cancelled(run.pk, usage, is_rolled_back=run.is_rolled_back))
    else:
        last = ("error", facts.failed(run.pk, code, reason, usage))
    told = [*_opening(run, code), last]
    events = [NewEvent(seq, seq, type, data, run.pk) for seq, (type, data) in enumerate(told, 1)]
    record_told(session_id=run.session_id, epoch=epoch, events=events)
    return Told(run.session_id, epoch, events)


def _opening(run: Run, code: str) -> list[tuple[str, dict[str, Any]]]:
    """What has to be told before the end: the message if nothing was told yet, or what is void."""
    if run.started_at is not None:
        return [("discard", facts.discard(run.pk, code, run.attempt, facts.newest_of(run.pk)))]
    if run.waiting_position is not None:
        return []
    message = Message.objects.get(run=run, position=0)
    return [("message", facts.message(message.pk, run.pk, message.content))]

"""Fork a conversation at one of its messages, and run a turn again that came to nothing."""

import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from sessions_app.access import get_live_session
from sessions_app.cursor import Cursor, end_of
from sessions_app.errors import MessageNotFoundError, QueueFullError, RunNotRetryableError
from sessions_app.models import AgentSession, IndexEntry, Message, Run, RunStatus, ToolCall
from sessions_app.models.run import ACTIVE_STATUSES
from sessions_app.services.accepting import AcceptedTurn
from sessions_app.services.working_time import check_time_left

_FINISHED = (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED)


@transaction.atomic
def fork_session(*, session: AgentSession, message_id: int | None = None, title: str | None = None) -> AgentSession:
    """A new session that begins as this one stood after a message, or as it stands; the two then go their own ways.

    Raises MessageNotFoundError, also for another session's message.
    """
    messages = Message.objects.filter(session=session).select_related("run").order_by("turn", "position")
    if message_id is not None:
        last = messages.filter(pk=message_id).first()
        if last is None:
            raise MessageNotFoundError()
        messages = messages.filter(Q(turn__lt=last.turn) | Q(turn=last.turn, position__lte=last.position))
    now = timezone.now()
    fork = AgentSession.objects.create(
        owner_id=session.owner_id,
        agent_type=session.agent_type,
        forked_from=session,
        title=title if title is not None else session.title,
        state=session.state,
        ttl_seconds=session.ttl_seconds,
        last_active=now,
        expires_at=now + timedelta(seconds=session.ttl_seconds),
    )
    runs: dict[uuid.UUID, Run] = {}
    copies = [_copy(message, fork, runs) for message in messages]
    Run.objects.bulk_create(runs.values(), batch_size=500)
    Message.objects.bulk_create(copies, batch_size=500)
    fork.message_count = len(copies)
    fork.next_turn = max((copy.turn for copy in copies), default=0) + 1
    fork.save(update_fields=["message_count", "next_turn"])
    return fork


def _copy(message: Message, fork: AgentSession, runs: dict[uuid.UUID, Run]) -> Message:
    """The message in the fork, under a run of the fork's own; that one's usage is not counted again."""
    original = message.run
    if original.pk not in runs:
        runs[original.pk] = Run(
            session=fork,
            turn=original.turn,
            status=original.status if original.status in _FINISHED else RunStatus.CANCELLED,
            attempt=original.attempt,
            started_at=original.started_at,
            finished_at=original.finished_at or timezone.now(),
            error_code=original.error_code,
            error_message=original.error_message,
        )
    message.pk, message.session, message.run = None, fork, runs[original.pk]
    return message


@transaction.atomic
def retry_run(*, user: Any, run: Run) -> AcceptedTurn:
    """Run a failed or cancelled turn again as a new one, which goes on from the last step that was finished.

    The turn's messages move to the new one, without the partial answer. Raises RunNotRetryableError,
    SessionExpiredError, SessionTimeoutError, QueueFullError.
    """
    session = get_live_session(user, run.session_id, lock=True)
    check_time_left(session.worked_ms)
    run.refresh_from_db()
    messages = Message.objects.filter(session=session, turn=run.turn)
    if run.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
        raise RunNotRetryableError()
    if run.retries.exists() or not messages.filter(position=0).exists():
        raise RunNotRetryableError("This run was retried already, or its message was removed.")
    queued = Run.objects.filter(session=session, status=RunStatus.QUEUED)
    if queued.count() >= settings.MAX_QUEUED_RUNS_PER_SESSION:
        raise QueueFullError(retry_after_seconds=5)
    is_busy = Run.objects.filter(session=session, status__in=ACTIVE_STATUSES).exists()
    dispatched_at = None if is_busy else timezone.now()
    retry = Run.objects.create(session=session, turn=session.next_turn, retry_of=run, dispatched_at=dispatched_at)
    messages.filter(is_partial=True).delete()
    IndexEntry.objects.filter(message__in=messages).delete()  # their place is another now
    messages.update(turn=retry.turn, run=retry)
    ToolCall.objects.filter(run=run).update(run=retry)
    AgentSession.objects.filter(pk=session.pk).update(
        next_turn=F("next_turn") + 1,
        last_active=timezone.now(),
        message_count=Message.objects.filter(session=session).count(),
    )
    message = Message.objects.get(run=retry, position=0)
    after = Cursor(session.epoch, 0) if is_busy else end_of(session.epoch)
    return AcceptedTurn(session.pk, retry.pk, message.pk, after, is_next=not is_busy, is_first=not is_busy)

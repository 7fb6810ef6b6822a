"""How a turn begins: a message is written together with its queued run, or refused.

On the way to the first token, so it is SQL: the ORM's building of the same queries costs several milliseconds of
CPU a turn (docs/decisions/0003-sql-on-the-hot-path.md).
"""

import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import orjson
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from sessions_app.access import as_uuid
from sessions_app.cursor import Cursor, end_of
from sessions_app.errors import (
    IdempotencyKeyReusedError,
    QueueFullError,
    SessionBusyError,
    SessionExpiredError,
    SessionNotFoundError,
)
from sessions_app.models import AgentSession, Event, Message, OnBusy, Run, RunStatus
from sessions_app.models.run import ACTIVE_STATUSES
from sessions_app.queries import Placement
from sessions_app.services.cancelling import request_cancel
from sessions_app.services.telling import Told
from sessions_app.services.working_time import check_time_left
from sessions_app.signals import steering_requested
from sessions_app.token_counting import message_tokens

_TITLE_LENGTH = 60


@dataclass(frozen=True)
class AcceptedTurn:
    """A turn that is on record. Its events will come behind `after`.

    `is_next` says that nothing else is running: then nothing at all lies behind `after` yet; `is_first`, that nothing
    waits before it either: then it is to be dispatched. `is_repeated`: the idempotency key was known, and this is the
    run that it began. `told` are the ends of runs that this one stopped.
    """

    session_id: uuid.UUID
    run_id: uuid.UUID
    message_id: int | None
    after: Cursor
    is_next: bool
    is_first: bool = False
    is_repeated: bool = False
    told: Told | None = None
    placement: Placement | None = None  # None: not known here


@dataclass(frozen=True)
class _Locked:
    """The session's row, held until the end of the transaction."""

    epoch: int
    on_busy: str
    placement: Placement
    now: datetime
    worked_ms: int


_LOCK = """
SELECT s.epoch, s.expires_at, a.on_busy, a.required_capabilities, s.worked_ms, a.id,
    ARRAY(SELECT g.group_id FROM auth_user_groups g WHERE g.user_id = s.owner_id)
FROM sessions_app_agentsession s JOIN sessions_app_agenttype a ON a.id = s.agent_type_id
WHERE s.id = %(session_id)s AND s.owner_id = %(owner_id)s AND s.deleted_at IS NULL
FOR UPDATE OF s
"""

# A statement of its own, so that it sees what was committed before the lock was had. It writes nothing if the
# session's queue is full. A run that has to wait for others counts as not dispatched: whoever ends the last of them
# does it.
_ACCEPT = """
WITH session AS (
    UPDATE sessions_app_agentsession s
    SET next_turn = next_turn + 1, message_count = message_count + 1, last_active = %(now)s,
        expires_at = GREATEST(expires_at, %(now)s + ttl_seconds * interval '1 second'),
        title = COALESCE(NULLIF(title, ''), %(title)s)
    WHERE s.id = %(session_id)s AND (
        SELECT count(*) FROM sessions_app_run r WHERE r.session_id = s.id AND r.status = 'queued'
    ) < %(max_queued)s
    RETURNING s.id, s.next_turn - 1 AS turn, EXISTS (
        SELECT 1 FROM sessions_app_run r WHERE r.session_id = s.id AND r.status IN ('running', 'awaiting_approval')
    ) AS is_busy, EXISTS (
        SELECT 1 FROM sessions_app_run r WHERE r.session_id = s.id AND r.status = 'queued'
    ) AS others_wait
), run AS (
    INSERT INTO sessions_app_run (
        id, session_id, turn, status, attempt, worker, created_at, dispatched_at, terminal_cursor, error_code,
        error_message, input_tokens, output_tokens, cached_tokens, reasoning_tokens, tool_call_count,
        idempotency_key, is_steering, is_rolled_back)
    SELECT %(run_id)s, id, turn, 'queued', 0, '', %(now)s, CASE WHEN NOT is_busy AND NOT others_wait THEN %(now)s END,
        '', '', '', 0, 0, 0, 0, 0, %(idempotency_key)s, %(is_steering)s, false
    FROM session
), message AS (
    INSERT INTO sessions_app_message (
        session_id, run_id, turn, position, role, content, thought, tool_calls, tool_call_id, tool_name,
        is_error, is_partial, token_count, created_at)
    SELECT id, %(run_id)s, turn, 0, 'user', %(content)s, '', '[]', '', '', false, false, %(tokens)s, %(now)s
    FROM session
    RETURNING id
)
SELECT message.id, is_busy, others_wait FROM message, session
"""


@transaction.atomic
def accept_turn(
    *, user: Any, session_id: Any, message: str, on_busy: str = "", idempotency_key: str = ""
) -> AcceptedTurn:
    """Write the user's message and its queued run. `on_busy` is the agent type's unless it is given.

    Raises SessionNotFoundError, SessionExpiredError, SessionTimeoutError, QueueFullError, SessionBusyError,
    IdempotencyKeyReusedError.
    """
    key = as_uuid(session_id)
    locked = _lock(user, key)
    if idempotency_key and (repeated := _find_repeated(key, idempotency_key, message, locked.epoch)):
        return repeated
    check_time_left(locked.worked_ms)
    on_busy = on_busy or locked.on_busy
    told = None if on_busy == OnBusy.ENQUEUE else _make_way(key, on_busy)
    return replace(_write(key, locked, message, on_busy, idempotency_key, told), told=told)


def _lock(user: Any, session_id: uuid.UUID | None) -> _Locked:
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, {"session_id": session_id, "owner_id": user.pk})
        session = cursor.fetchone()
    if session is None:
        raise SessionNotFoundError()
    epoch, expires_at, on_busy, required, worked_ms, agent_type_id, group_ids = session
    if expires_at <= now:
        raise SessionExpiredError()
    placement = Placement(user.pk, agent_type_id, tuple(orjson.loads(required)), tuple(group_ids))
    return _Locked(epoch, on_busy, placement, now, worked_ms)


def _write(
    session_id: Any, locked: _Locked, message: str, on_busy: str, idempotency_key: str, told: Told | None
) -> AcceptedTurn:
    run_id = uuid.uuid4()
    values = {
        "session_id": session_id,
        "run_id": run_id,
        "now": locked.now,
        "content": message,
        "tokens": message_tokens(message),
        "title": title_from(message),
        "max_queued": settings.MAX_QUEUED_RUNS_PER_SESSION,
        "idempotency_key": idempotency_key,
        "is_steering": on_busy == OnBusy.STEER,
    }
    with connection.cursor() as cursor:
        cursor.execute(_ACCEPT, values)
        accepted = cursor.fetchone()
    if accepted is None:
        raise QueueFullError(retry_after_seconds=5)
    message_id, is_busy, others_wait = accepted
    # A busy session's worker tells of this run within its own epoch if it is cancelled while it waits.
    epoch = told.epoch if told else locked.epoch
    after = Cursor(epoch, 0) if is_busy else end_of(epoch)
    is_first = not is_busy and not others_wait
    return AcceptedTurn(
        session_id, run_id, message_id, after, is_next=not is_busy, is_first=is_first, placement=locked.placement
    )


def _make_way(session_id: Any, on_busy: str) -> Told | None:
    """Do with the runs that are active what `on_busy` says; returns the ends of those that no worker tells of."""
    session = AgentSession(pk=session_id)
    active = Run.objects.filter(session=session, status__in=ACTIVE_STATUSES)
    if on_busy == OnBusy.REJECT and active.exists():
        raise SessionBusyError()
    if on_busy == OnBusy.STEER:
        worker = active.filter(status=RunStatus.RUNNING).values_list("worker", flat=True).first()
        if worker:
            transaction.on_commit(partial(steering_requested.send, Run, session_id=session_id, worker=worker))
    if on_busy in (OnBusy.INTERRUPT, OnBusy.ROLLBACK):
        return request_cancel(session=session, is_rollback=on_busy == OnBusy.ROLLBACK).told
    return None


def _find_repeated(session_id: Any, idempotency_key: str, message: str, epoch: int) -> AcceptedTurn | None:
    run = Run.objects.filter(session_id=session_id, idempotency_key=idempotency_key).first()
    if run is None:
        return None
    begun = Message.objects.filter(run=run, role="user").order_by("position").first()
    if begun is not None and begun.content != message:
        raise IdempotencyKeyReusedError()
    first = Event.objects.filter(run=run, type="message").values_list("epoch", "seq").first()
    after = Cursor(first[0], first[1] - 1) if first else Cursor(epoch, 0)
    return AcceptedTurn(session_id, run.pk, begun.pk if begun else None, after, is_next=False, is_repeated=True)


def title_from(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1].rstrip() + "…"

"""How a run begins: a message is accepted and queued as a run, a worker claims it.

Both are on the way to the first token, so each is one SQL statement: the ORM's building of the same queries
costs several milliseconds of CPU a turn (docs/decisions/0003-sql-on-the-hot-path.md).
"""

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from sessions_app.access import as_uuid
from sessions_app.cursor import Cursor, end_of
from sessions_app.errors import QueueFullError, SessionExpiredError, SessionNotFoundError
from sessions_app.models import Run, RunStatus
from sessions_app.models.run import ACTIVE_STATUSES
from sessions_app.token_counting import TOKENS_PER_MESSAGE, count_tokens

_TITLE_LENGTH = 60


@dataclass(frozen=True)
class AcceptedTurn:
    """A turn that is on record. Its events will come behind `after`.

    `is_next` says that nothing else is running: then nothing at all lies behind `after` yet.
    """

    session_id: uuid.UUID
    run_id: uuid.UUID
    message_id: int
    after: Cursor
    is_next: bool


@dataclass(frozen=True)
class AgentSetting:
    """The agent type of a run's session, as it was when the run was claimed."""

    name: str
    runtime: str
    model: str
    system_prompt: str
    tools: list[str]
    max_steps: int


@dataclass(frozen=True)
class Claim:
    """A worker's right to write in a session: valid while the session's epoch is this one.

    `state` is the session's state document.
    """

    run_id: uuid.UUID
    session_id: uuid.UUID
    epoch: int
    turn: int
    attempt: int
    agent: AgentSetting
    state: dict[str, Any]


# --- accepted ------------------------------------------------------------------------------------------------------

_LOCK = """
SELECT epoch, expires_at FROM sessions_app_agentsession
WHERE id = %(session_id)s AND owner_id = %(owner_id)s AND deleted_at IS NULL
FOR UPDATE
"""

# A statement of its own, so that it sees what was committed before the lock was had. It writes nothing if the
# session's queue is full.
_ACCEPT = """
WITH session AS (
    UPDATE sessions_app_agentsession s
    SET next_turn = next_turn + 1, message_count = message_count + 1, last_active = %(now)s,
        expires_at = GREATEST(expires_at, %(now)s + ttl_seconds * interval '1 second'),
        title = COALESCE(NULLIF(title, ''), %(title)s)
    WHERE s.id = %(session_id)s AND (
        SELECT count(*) FROM sessions_app_run r WHERE r.session_id = s.id AND r.status = 'queued'
    ) < %(max_queued)s
    RETURNING s.id, s.next_turn - 1 AS turn
), run AS (
    INSERT INTO sessions_app_run (
        id, session_id, turn, status, attempt, worker, created_at, dispatched_at, terminal_cursor,
        error_code, error_message, input_tokens, output_tokens, cached_tokens, reasoning_tokens, tool_call_count)
    SELECT %(run_id)s, id, turn, 'queued', 0, '', %(now)s, %(now)s, '', '', '', 0, 0, 0, 0, 0 FROM session
)
INSERT INTO sessions_app_message (
    session_id, run_id, turn, position, role, content, thought, tool_calls, tool_call_id, tool_name,
    is_error, is_partial, token_count, created_at)
SELECT id, %(run_id)s, turn, 0, 'user', %(content)s, '', '[]', '', '', false, false, %(tokens)s, %(now)s
FROM session
RETURNING id, EXISTS (
    SELECT 1 FROM sessions_app_run r
    WHERE r.session_id = %(session_id)s AND r.status IN ('running', 'awaiting_approval'))
"""


@transaction.atomic
def accept_turn(*, user: Any, session_id: Any, message: str) -> AcceptedTurn:
    """Write the user's message and its queued run.

    Raises SessionNotFoundError, SessionExpiredError, QueueFullError.
    """
    now = timezone.now()
    values = {
        "session_id": as_uuid(session_id),
        "owner_id": user.pk,
        "run_id": uuid.uuid4(),
        "now": now,
        "content": message,
        "tokens": message_tokens(message),
        "title": title_from(message),
        "max_queued": settings.MAX_QUEUED_RUNS_PER_SESSION,
    }
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, values)
        session = cursor.fetchone()
        if session is None:
            raise SessionNotFoundError()
        epoch, expires_at = session
        if expires_at <= now:
            raise SessionExpiredError()
        cursor.execute(_ACCEPT, values)
        accepted = cursor.fetchone()
    if accepted is None:
        raise QueueFullError(retry_after_seconds=5)
    message_id, is_busy = accepted
    # A busy session's worker tells of this run within its own epoch if it is cancelled while it waits.
    after = Cursor(epoch, 0) if is_busy else end_of(epoch)
    return AcceptedTurn(values["session_id"], values["run_id"], message_id, after, is_next=not is_busy)


def message_tokens(*texts: str) -> int:
    return TOKENS_PER_MESSAGE + sum(count_tokens(text) for text in texts if text)


def title_from(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1].rstrip() + "…"


def mark_undispatched(*, run_id: uuid.UUID) -> None:
    """The broker did not take it: the sweeper dispatches it."""
    Run.objects.filter(pk=run_id, status=RunStatus.QUEUED).update(dispatched_at=None)


@transaction.atomic
def take_undispatched(*, limit: int = 1_000) -> list[uuid.UUID]:
    """Queued runs, first in their session, that no broker took or that have waited REDISPATCH_SECONDS since.

    They count as dispatched now. Sweepers that call it at once take different runs.
    """
    now = timezone.now()
    earlier = Run.objects.filter(
        session_id=OuterRef("session_id"), status__in=ACTIVE_STATUSES, turn__lt=OuterRef("turn")
    )
    overdue = Q(dispatched_at=None) | Q(dispatched_at__lt=now - timedelta(seconds=settings.REDISPATCH_SECONDS))
    lost = Run.objects.filter(overdue, ~Exists(earlier), status=RunStatus.QUEUED).order_by("created_at")
    ids = list(lost.select_for_update(skip_locked=True).values_list("pk", flat=True)[:limit])
    Run.objects.filter(pk__in=ids).update(dispatched_at=now)
    return ids


# --- claimed -------------------------------------------------------------------------------------------------------

# The session's row is locked first, so that its epoch is the newest; the run's own row is checked again by
# Postgres if it changed meanwhile. A run waits for those before it in its session.
_CLAIM = """
WITH locked AS (
    SELECT s.id, s.epoch FROM sessions_app_agentsession s
    WHERE s.id = (SELECT session_id FROM sessions_app_run WHERE id = %(run_id)s) AND s.deleted_at IS NULL
    FOR UPDATE
), claimed AS (
    UPDATE sessions_app_run r
    SET status = 'running', epoch = locked.epoch + 1, attempt = r.attempt + 1, worker = %(worker)s,
        started_at = COALESCE(r.started_at, clock_timestamp())
    FROM locked
    WHERE r.id = %(run_id)s AND r.session_id = locked.id AND r.status = 'queued'
      AND NOT EXISTS (
        SELECT 1 FROM sessions_app_run o
        WHERE o.session_id = r.session_id AND o.id <> r.id
          AND (o.status IN ('running', 'awaiting_approval') OR (o.status = 'queued' AND o.turn < r.turn)))
    RETURNING r.session_id, r.epoch, r.turn, r.attempt
)
UPDATE sessions_app_agentsession s SET epoch = claimed.epoch
FROM claimed, sessions_app_agenttype a WHERE s.id = claimed.session_id AND a.id = s.agent_type_id
RETURNING claimed.*, s.state, a.name, a.runtime, a.model, a.system_prompt, a.tools, a.max_steps
"""


def claim_run(*, run_id: uuid.UUID, worker: str) -> Claim | None:
    """Take a queued run that is first in its session, under a new epoch; None if it is not to be had."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"run_id": run_id, "worker": worker})
        row = cursor.fetchone()
    if row is None:
        return None
    session_id, epoch, turn, attempt, state, name, runtime, model, system_prompt, tools, max_steps = row
    agent = AgentSetting(name, runtime, model, system_prompt, orjson.loads(tools), max_steps)
    return Claim(run_id, session_id, epoch, turn, attempt, agent, orjson.loads(state))

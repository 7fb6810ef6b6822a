"""What a worker writes of its run: checkpoints after each step, and the end.

A checkpoint is one SQL statement, fenced: it changes the session's row on the condition that its epoch is still
the claim's, and everything else follows from that row. If somebody has claimed a run of this session since,
nothing is written and StaleEpochError raised.
"""

import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from sessions_app.cursor import Cursor
from sessions_app.errors import CancelRequestedError, StaleEpochError
from sessions_app.models import AgentSession, Message, Run, RunStatus, ToolCall, ToolCallStatus
from sessions_app.models.run import UNTOLD
from sessions_app.services.claiming import Claim


@dataclass(frozen=True)
class NewEvent:
    """A fact to be recorded: the id's second half, that of its first delta, and what the client sees."""

    seq: int
    first_seq: int
    type: str
    data: dict[str, Any]
    run_id: uuid.UUID | None = None  # if of another run than the claim's


@dataclass(frozen=True)
class NewMessage:
    """A message of the claim's turn."""

    position: int
    role: str
    content: str = ""
    thought: str = ""
    tool_calls: Sequence[dict[str, Any]] = ()  # [{"id", "name", "arguments"}]
    tool_call_id: str = ""
    tool_name: str = ""
    is_error: bool = False
    is_partial: bool = False
    duration_ms: int | None = None
    token_count: int = 0
    stored_result: str = ""  # the whole of a tool's result that was too large for `content`


@dataclass(frozen=True)
class Usage:
    """Tokens of one model call."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    model: str = ""
    is_estimated: bool = False
    counted_tokens: int = 0  # our own count of the input, beside the provider's
    tool_calls: int = 0  # that the answer asked for
    cost: int = 0  # in millionths of the operator's currency
    wall_ms: int | None = None
    queue_ms: int | None = None  # of a run's first call
    reservation_id: int | None = None


@dataclass(frozen=True)
class NewCall:
    """A tool call for the ledger of effects, before its tool starts."""

    call_id: str
    tool: str
    arguments: dict[str, Any]
    idempotency_key: str
    is_idempotent: bool
    cost: float = 0.0
    stored_result: str = ""  # of a call that nobody had told of before its result came
    status: str = ToolCallStatus.PLANNED.value


@dataclass
class Step:
    """What one checkpoint adds: messages in order, the facts of the stream, the model calls, the tool calls."""

    messages: list[NewMessage] = field(default_factory=list)
    events: list[NewEvent] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)
    calls: list[NewCall] = field(default_factory=list)

    @property
    def has_tools(self) -> bool:
        return bool(self.calls) or any(message.tool_call_id for message in self.messages)


@dataclass(frozen=True)
class Aftermath:
    """What is left to do in a session: whether runs have ended without an event, and whether a message may enter the
    running turn."""

    has_untold_runs: bool
    is_steered: bool


_RECORD = """
WITH held AS (
    UPDATE sessions_app_agentsession
    SET last_active = clock_timestamp(), message_count = message_count + %(message_count)s,
        input_tokens = input_tokens + %(input_tokens)s, output_tokens = output_tokens + %(output_tokens)s,
        worked_ms = worked_ms + CASE WHEN %(status)s::text IS NULL THEN 0 ELSE (
            SELECT COALESCE(GREATEST(extract(epoch FROM clock_timestamp() - r.claimed_at) * 1000, 0), 0)::bigint
            FROM sessions_app_run r WHERE r.id = %(run_id)s) END
    WHERE id = %(session_id)s AND epoch = %(epoch)s
    RETURNING id, owner_id, agent_type_id
), run AS (
    UPDATE sessions_app_run r
    SET input_tokens = r.input_tokens + %(input_tokens)s, output_tokens = r.output_tokens + %(output_tokens)s,
        cached_tokens = r.cached_tokens + %(cached_tokens)s,
        reasoning_tokens = r.reasoning_tokens + %(reasoning_tokens)s,
        tool_call_count = r.tool_call_count + %(tool_call_count)s, cost = r.cost + %(cost)s / 1000000.0,
        status = COALESCE(%(status)s, r.status), terminal_cursor = %(terminal_cursor)s,
        finished_at = CASE WHEN %(is_over)s THEN clock_timestamp() END,
        attempt = GREATEST(r.attempt - %(given_back)s, 0),
        lease_expires_at = CASE WHEN %(status)s::text IS NULL THEN r.lease_expires_at END,
        error_code = %(error_code)s, error_message = %(error_message)s, agent_state = NULL
    FROM held WHERE r.id = %(run_id)s
), message AS (
    INSERT INTO sessions_app_message (
        session_id, run_id, turn, created_at, position, role, content, thought, tool_calls, tool_call_id,
        tool_name, is_error, is_partial, duration_ms, token_count)
    SELECT held.id, %(run_id)s, %(turn)s, clock_timestamp(), new.*
    FROM held, jsonb_to_recordset(%(messages)s) AS new(
        position int, role text, content text, thought text, tool_calls jsonb, tool_call_id text,
        tool_name text, is_error bool, is_partial bool, duration_ms int, token_count int)
), event AS (
    INSERT INTO sessions_app_event (session_id, run_id, epoch, created_at, first_seq, seq, type, data)
    SELECT held.id, COALESCE(new.run_id, %(run_id)s), %(epoch)s, clock_timestamp(),
        new.first_seq, new.seq, new.type, new.data
    FROM held, jsonb_to_recordset(%(events)s) AS new(run_id uuid, first_seq int, seq int, type text, data jsonb)
), usage AS (
    INSERT INTO sessions_app_usagerecord (
        session_id, owner_id, agent_type_id, run_id, created_at, model, input_tokens, output_tokens,
        cached_tokens, reasoning_tokens, is_estimated, counted_tokens, tool_calls, wall_ms, queue_ms, reservation_id,
        cost)
    SELECT held.id, held.owner_id, held.agent_type_id, %(run_id)s, clock_timestamp(), new.model, new.input_tokens,
        new.output_tokens, new.cached_tokens, new.reasoning_tokens, new.is_estimated, new.counted_tokens,
        new.tool_calls, new.wall_ms, new.queue_ms, new.reservation_id, new.cost / 1000000.0
    FROM held, jsonb_to_recordset(%(usage)s) AS new(
        model text, input_tokens int, output_tokens int, cached_tokens int, reasoning_tokens int, is_estimated bool,
        counted_tokens int, tool_calls int, cost bigint, wall_ms int, queue_ms int, reservation_id bigint)
)/* ledger */
SELECT EXISTS (
    SELECT 1 FROM sessions_app_run untold
    WHERE untold.session_id = held.id AND untold.status = 'cancelled' AND untold.terminal_cursor = ''
      AND untold.cancel_requested_at IS NOT NULL AND untold.id <> %(run_id)s
), EXISTS (
    SELECT 1 FROM sessions_app_run steering
    WHERE steering.session_id = held.id AND steering.status = 'queued' AND steering.is_steering
) FROM held
"""

# Steps with tools also keep the ledger of their effects. An agent may tell of a call twice.
_LEDGER = """, planned AS (
    INSERT INTO sessions_app_toolcall (
        run_id, planned_at, started_at, is_error, decision,
        call_id, tool, arguments, idempotency_key, is_idempotent, cost, stored_result, status)
    SELECT %(run_id)s, clock_timestamp(), CASE WHEN new.status = 'started' THEN clock_timestamp() END, false, '', new.*
    FROM held, jsonb_to_recordset(%(calls)s) AS new(
        call_id text, tool text, arguments jsonb, idempotency_key text, is_idempotent bool, cost float8,
        stored_result text, status text)
    ON CONFLICT (run_id, call_id) DO NOTHING
), outcome AS (
    UPDATE sessions_app_toolcall t
    SET status = CASE WHEN t.decision = 'denied' THEN 'denied'
            WHEN t.status = 'unknown' AND t.decision <> 'happened' THEN 'unknown' ELSE 'finished' END,
        is_error = new.is_error, finished_at = clock_timestamp(), stored_result = new.stored_result
    FROM held, jsonb_to_recordset(%(messages)s) AS new(tool_call_id text, is_error bool, stored_result text)
    WHERE t.run_id = %(run_id)s AND new.tool_call_id <> '' AND t.call_id = new.tool_call_id
)"""
_RECORD_WITH_TOOLS = _RECORD.replace("/* ledger */", _LEDGER)


def record_step(*, claim: Claim, step: Step) -> Aftermath:
    """Write a checkpoint; raises StaleEpochError, and then nothing of it is written."""
    return _record(claim, step)


def finish_run(
    *,
    claim: Claim,
    status: RunStatus,
    step: Step,
    error_code: str = "",
    error_message: str = "",
    has_open_calls: bool = False,
) -> Aftermath:
    """Write a run's last messages, facts (the terminal event last), usage and status, all or nothing.

    `has_open_calls`: some tool calls have no result, and the ledger has to say so. Raises StaleEpochError.
    """
    with transaction.atomic() if has_open_calls or status == RunStatus.CANCELLED else nullcontext():
        aftermath = _record(
            claim,
            step,
            status=status.value,
            is_over=True,
            terminal_cursor=str(Cursor(claim.epoch, step.events[-1].seq)),
            error_code=error_code,
            error_message=error_message,
        )
        if has_open_calls:
            drop_open_calls(claim.run_id)
        if status == RunStatus.CANCELLED and Run.objects.filter(pk=claim.run_id, is_rolled_back=True).exists():
            remove_from_history(claim.run_id)
    return aftermath


def read_aftermath(*, claim: Claim) -> Aftermath:
    """What `finish_run` would return, for a caller who never got its answer."""
    runs = Run.objects.filter(session_id=claim.session_id)
    return Aftermath(
        runs.filter(UNTOLD).exclude(pk=claim.run_id).exists(),
        runs.filter(status=RunStatus.QUEUED, is_steering=True).exists(),
    )


@transaction.atomic
def park_run(*, claim: Claim, step: Step, awaiting: Sequence[str] = (), agent_state: Any = None) -> None:
    """Write a step after which the run waits for a person, without a worker.

    Raises StaleEpochError, and CancelRequestedError if somebody has asked to stop it meanwhile: nobody would.

    `awaiting` are the ids of those calls that need an approval; `agent_state` is what the agent goes on with.
    """
    _record(claim, step, status=RunStatus.AWAITING_APPROVAL.value, given_back=1)  # which locks the session
    if Run.objects.filter(pk=claim.run_id).exclude(cancel_requested_at=None).exists():
        raise CancelRequestedError()
    Run.objects.filter(pk=claim.run_id).update(agent_state=agent_state)
    if awaiting:
        limit = claim.agent.approval_timeout_seconds
        expires_at = timezone.now() + timedelta(seconds=limit) if limit else None
        calls = ToolCall.objects.filter(run_id=claim.run_id, call_id__in=awaiting)
        calls.update(status=ToolCallStatus.AWAITING, expires_at=expires_at)


def drop_open_calls(run_id: uuid.UUID) -> None:
    """The run ends: what it had planned does not start any more, and of what it had started nobody saw the end."""
    calls = ToolCall.objects.filter(run_id=run_id)
    not_started = (ToolCallStatus.PLANNED, ToolCallStatus.AWAITING)
    calls.filter(status__in=not_started).update(status=ToolCallStatus.SKIPPED)
    calls.filter(status=ToolCallStatus.STARTED).update(status=ToolCallStatus.UNKNOWN)


def remove_from_history(run_id: uuid.UUID) -> None:
    """Roll a turn back: no prompt and no history shows it any more. Its events and its usage stay on record."""
    run = Run.objects.get(pk=run_id)
    _, removed = Message.objects.filter(session_id=run.session_id, turn=run.turn).delete()
    messages = removed.get(Message._meta.label, 0)  # index entries go with them
    AgentSession.objects.filter(pk=run.session_id).update(message_count=F("message_count") - messages)


def _record(
    claim: Claim,
    step: Step,
    *,
    status: str | None = None,
    is_over: bool = False,
    given_back: int = 0,
    terminal_cursor: str = "",
    error_code: str = "",
    error_message: str = "",
) -> Aftermath:
    values: dict[str, Any] = {
        "session_id": claim.session_id,
        "run_id": claim.run_id,
        "epoch": claim.epoch,
        "turn": claim.turn,
        "status": status,
        "is_over": is_over,
        "given_back": given_back,
        "terminal_cursor": terminal_cursor,
        "error_code": error_code,
        "error_message": error_message,
        "messages": _as_json(step.messages),
        "events": _as_json(step.events),
        "usage": _as_json(step.usage),
        **({"calls": _as_json(step.calls)} if step.has_tools else {}),
        "message_count": len(step.messages),
        "tool_call_count": sum(len(message.tool_calls) for message in step.messages),
        "input_tokens": sum(call.input_tokens for call in step.usage),
        "output_tokens": sum(call.output_tokens for call in step.usage),
        "cached_tokens": sum(call.cached_tokens for call in step.usage),
        "cost": sum(call.cost for call in step.usage),
        "reasoning_tokens": sum(call.reasoning_tokens for call in step.usage),
    }
    with connection.cursor() as cursor:
        cursor.execute(_RECORD_WITH_TOOLS if step.has_tools else _RECORD, values)
        held = cursor.fetchone()
    if held is None:
        raise StaleEpochError()
    return Aftermath(*held)


def _as_json(rows: Sequence[Any]) -> str:
    return orjson.dumps(rows).decode()  # orjson knows dataclasses

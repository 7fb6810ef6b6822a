"""How a turn begins: a message is written together with its queued run, or refused.

On the way to the first token, so it is one call of a function in the database
(docs/decisions/0003-sql-on-the-hot-path.md).
"""

import uuid
from dataclasses import dataclass, replace
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
    SessionTimeoutError,
)
from sessions_app.models import AgentSession, Event, Message, OnBusy, Run, RunStatus
from sessions_app.models.run import ACTIVE_STATUSES
from sessions_app.queries import Placement
from sessions_app.services.cancelling import request_cancel
from sessions_app.services.telling import Told
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
class _Answer:
    """What sessions_app/sql/accept.sql says, which explains it."""

    state: str
    epoch: int
    on_busy: str
    agent_type_id: int
    required_capabilities: str
    group_ids: list[int]
    message_id: int | None
    is_busy: bool
    others_wait: bool


_ACCEPT = """
SELECT * FROM sessions_app_accept(
    %(session_id)s, %(owner_id)s, %(run_id)s, %(content)s, %(tokens)s::integer, %(title)s, %(on_busy)s,
    %(idempotency_key)s, %(now)s, %(max_queued)s::integer, %(max_worked_ms)s::bigint, %(has_made_way)s)
"""


def accept_turn(
    *, user: Any, session_id: Any, message: str, on_busy: str = "", idempotency_key: str = ""
) -> AcceptedTurn:
    """Write the user's message and its queued run. `on_busy` is the agent type's unless it is given.

    Raises SessionNotFoundError, SessionExpiredError, SessionTimeoutError, QueueFullError, SessionBusyError,
    IdempotencyKeyReusedError.
    """
    limit = settings.MAX_SESSION_DURATION_SECONDS
    values = {
        "session_id": as_uuid(session_id),
        "owner_id": user.pk,
        "run_id": uuid.uuid4(),
        "content": message,
        "tokens": message_tokens(message),
        "title": title_from(message),
        "on_busy": on_busy,
        "idempotency_key": idempotency_key,
        "now": timezone.now(),
        "max_queued": settings.MAX_QUEUED_RUNS_PER_SESSION,
        "max_worked_ms": limit * 1_000 if limit else None,
        "has_made_way": False,
    }
    answer = _accept(values)
    if answer.state == "accepted":
        return _as_turn(values, answer)
    return _settle(values)


@transaction.atomic
def _settle(values: dict[str, Any]) -> AcceptedTurn:
    """What has to be done first: give a repeated message its run, or make way in a busy session."""
    answer = _accept(values)  # again, now keeping the session's lock
    if answer.state == "repeated":
        return _find_repeated(values, answer)
    told = None
    if answer.state == "busy":
        told = _make_way(values["session_id"], answer.on_busy)
        answer = _accept(values | {"has_made_way": True})
    return replace(_as_turn(values, answer), told=told)


def _accept(values: dict[str, Any]) -> _Answer:
    with connection.cursor() as cursor:
        cursor.execute(_ACCEPT, values)
        row = cursor.fetchone()
    answer = _Answer(*row) if row else None
    if answer is None:
        raise SessionNotFoundError()
    if answer.state == "expired":
        raise SessionExpiredError()
    if answer.state == "out_of_time":
        raise SessionTimeoutError()
    if answer.state == "full":
        raise QueueFullError(retry_after_seconds=5)
    return answer


def _as_turn(values: dict[str, Any], answer: _Answer) -> AcceptedTurn:
    required = tuple(orjson.loads(answer.required_capabilities))
    return AcceptedTurn(
        values["session_id"],
        values["run_id"],
        answer.message_id,
        # A busy session's worker tells of this run within its own epoch if it is cancelled while it waits.
        after=Cursor(answer.epoch, 0) if answer.is_busy else end_of(answer.epoch),
        is_next=not answer.is_busy,
        is_first=not answer.is_busy and not answer.others_wait,
        placement=Placement(values["owner_id"], answer.agent_type_id, required, tuple(answer.group_ids)),
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


def _find_repeated(values: dict[str, Any], answer: _Answer) -> AcceptedTurn:
    session_id = values["session_id"]
    run = Run.objects.get(session_id=session_id, idempotency_key=values["idempotency_key"])
    begun = Message.objects.filter(run=run, role="user").order_by("position").first()
    if begun is not None and begun.content != values["content"]:
        raise IdempotencyKeyReusedError()
    first = Event.objects.filter(run=run, type="message").values_list("epoch", "seq").first()
    after = Cursor(first[0], first[1] - 1) if first else Cursor(answer.epoch, 0)
    return AcceptedTurn(session_id, run.pk, begun.pk if begun else None, after, is_next=False, is_repeated=True)


def title_from(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1].rstrip() + "…"

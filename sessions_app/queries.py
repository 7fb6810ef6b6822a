"""Reads of sessions, histories, runs and facts. Each is a constant number of queries."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.postgres.expressions import ArraySubquery
from django.db import connection, transaction
from django.db.models import OuterRef, Q, QuerySet
from django.db.models.functions import Now

from sessions_app.cursor import START, Cursor
from sessions_app.errors import InvalidRequestError
from sessions_app.facts import TERMINAL_TYPES
from sessions_app.models import AgentSession, AgentType, Event, Message, Run, RunStatus, ToolCall


@dataclass(frozen=True)
class History:
    """A page of a conversation, oldest first.

    `before` asks for the page before this one (None: there is none). `cursor` continues with the events
    behind what this page was read with.
    """

    messages: list[Message]
    before: int | None
    cursor: Cursor


def sessions_of(user: Any, *, search: str = "") -> QuerySet[AgentSession]:
    """The user's sessions, newest activity first."""
    sessions = AgentSession.objects.filter(owner_id=user.pk, deleted_at=None).select_related("agent_type")
    if search:
        sessions = sessions.filter(title__icontains=search)
    return sessions.order_by("-last_active", "id")


def enabled_agent_types() -> QuerySet[AgentType]:
    return AgentType.objects.filter(is_enabled=True)


@transaction.atomic
def history(session: AgentSession, *, limit: int = 50, before: int | None = None) -> History:
    """The newest `limit` messages, or those before the message `before`; raises InvalidRequestError."""
    _read_one_moment()
    cursor = newest_fact(session.pk)
    messages = Message.objects.filter(session=session)
    if before is not None:
        anchor = messages.filter(pk=before).values_list("turn", "position").first()
        if anchor is None:
            raise InvalidRequestError("`before` is not a message of this session.")
        turn, position = anchor
        # The bound on `turn` alone is implied, but it is what lets Postgres walk the index from there.
        messages = messages.filter(Q(turn__lt=turn) | Q(turn=turn, position__lt=position), turn__lte=turn)
    page = list(messages.order_by("-turn", "-position")[: limit + 1])
    more = len(page) > limit
    page = page[:limit][::-1]
    return History(page, page[0].pk if more else None, cursor)


def _read_one_moment() -> None:
    """Messages and cursor of one snapshot: an event is either in the page or behind its cursor."""
    if not connection.savepoint_ids:  # the level can be set only before a transaction's first query
        with connection.cursor() as sql:
            sql.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def newest_fact(session_id: uuid.UUID) -> Cursor:
    """The id of the newest recorded event; START if there is none."""
    facts = Event.objects.filter(session_id=session_id).order_by("-epoch", "-seq")
    return Cursor(*(facts.values_list("epoch", "seq").first() or START))


def facts_after(session_id: uuid.UUID, after: Cursor, *, limit: int) -> list[Event]:
    """Recorded events behind a cursor, oldest first."""
    behind = Q(epoch__gt=after.epoch) | Q(epoch=after.epoch, seq__gt=after.seq)
    facts = Event.objects.filter(behind, session_id=session_id, epoch__gte=after.epoch)
    return list(facts.order_by("epoch", "seq")[:limit])


def has_ended_since(session_id: uuid.UUID, after: Cursor) -> bool:
    """Whether a run's end is on record behind a cursor, in its epoch."""
    facts = Event.objects.filter(session_id=session_id, epoch=after.epoch, seq__gt=after.seq)
    return facts.filter(type__in=TERMINAL_TYPES).exists()


def is_up_to(session_id: uuid.UUID, cursor: Cursor) -> bool:
    """Whether an event at or behind this cursor is on record in its epoch."""
    return Event.objects.filter(session_id=session_id, epoch=cursor.epoch, seq__gte=cursor.seq).exists()


def end_of_epoch(session_id: uuid.UUID, epoch: int) -> Cursor | None:
    """The id of the event with which an epoch's run ended; None if it has not ended in this epoch."""
    runs = Run.objects.filter(session_id=session_id, epoch=epoch).exclude(terminal_cursor="")
    ends = [Cursor.parse(text) for text in runs.values_list("terminal_cursor", flat=True)]
    return max(ends, default=None)


def start_of_active_run(session_id: uuid.UUID) -> Cursor | None:
    """The cursor before the first event of the run that runs, or waits for a slot, to watch it from its start."""
    waits = Q(status=RunStatus.QUEUED, waiting_position__isnull=False)
    runs = Run.objects.filter(waits | Q(status=RunStatus.RUNNING), session_id=session_id)
    run = runs.only("epoch", "attempt", "waiting_position").order_by("turn").first()
    if run is None or not run.epoch:
        return None
    if run.waiting_position is not None and run.attempt <= 1:  # its message was told before a worker claimed it
        told = Event.objects.filter(session_id=session_id, run=run, type="message").order_by("epoch", "seq").first()
        return Cursor(told.epoch, told.seq - 1) if told else Cursor(run.epoch, 0)
    return Cursor(run.epoch, 0)


def run_of_epoch(session_id: uuid.UUID, epoch: int) -> Run | None:
    """The run of this epoch's events. One that was taken over since has a later epoch, the next there is."""
    run = Run.objects.filter(session_id=session_id, epoch__gte=epoch).order_by("epoch").first()
    if run is None or run.epoch == epoch:
        return run
    told = Event.objects.filter(session_id=session_id, epoch=epoch).order_by("seq").select_related("run").first()
    return told.run if told else run


def runs_of(session: AgentSession) -> QuerySet[Run]:
    return Run.objects.filter(session=session).order_by("-turn")


def last_answer(run: Run) -> str:
    """The text of a run's last answer that has any."""
    answers = Message.objects.filter(run=run, role="assistant").exclude(content="")
    return answers.order_by("-position").values_list("content", flat=True).first() or ""


def facts_of(run: Run) -> list[Event]:
    """A run's events on record, oldest first."""
    return list(Event.objects.filter(session_id=run.session_id, run=run).order_by("epoch", "seq"))


def search_messages(
    session_id: uuid.UUID, query: str, *, limit: int, but_run: uuid.UUID | None = None
) -> list[Message]:
    """What the user and the agent said with all of these words in it, newest first, `but_run`'s left out."""
    said = Message.objects.filter(session_id=session_id, role__in=("user", "assistant")).exclude(content="")
    for word in query.split()[:10]:
        said = said.filter(content__icontains=word)
    if but_run is not None:
        said = said.exclude(run_id=but_run)
    return list(said.order_by("-turn", "-position")[:limit])


def stored_result(session_id: uuid.UUID, call_id: str) -> str | None:
    """The whole of a tool's result that was too large for the conversation, by the newest call of that id."""
    calls = ToolCall.objects.filter(run__session=session_id, call_id=call_id).exclude(stored_result="")
    return calls.order_by("-pk").values_list("stored_result", flat=True).first()


@dataclass(frozen=True)
class Placement:
    """What decides when a run may be at work, and where: whom it counts for, and what its worker must offer."""

    owner_id: int
    agent_type_id: int
    required: tuple[str, ...] = ()
    group_ids: tuple[int, ...] = ()


def placements(runs: QuerySet[Run]) -> dict[uuid.UUID, Placement]:
    memberships: Any = get_user_model().groups.through
    groups = memberships.objects.filter(user_id=OuterRef("session__owner_id")).values("group_id")
    rows = runs.values_list(
        "pk",
        "session__owner_id",
        "session__agent_type_id",
        "session__agent_type__required_capabilities",
        ArraySubquery(groups),
    )
    return {
        pk: Placement(owner_id, agent_type_id, tuple(required), tuple(group_ids))
        for pk, owner_id, agent_type_id, required, group_ids in rows
    }


def placements_of_queued(run_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, Placement]:
    """Of those of the runs that are queued."""
    return placements(Run.objects.filter(pk__in=run_ids, status=RunStatus.QUEUED))


def placements_at_work() -> dict[uuid.UUID, Placement]:
    """Of all runs that a worker holds."""
    return placements(Run.objects.filter(status=RunStatus.RUNNING, lease_expires_at__gt=Now()).order_by())

"""The one way to read a session's events: facts older than the stream, the stream, then live.

Every client reads through `tail`: SSE, WebSocket, the wait for an answer. No hole and no repeat between the
parts; where a cursor points into what is left only as a whole, a `discard` event says what to throw away.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from itertools import groupby

from django.conf import settings
from redis.exceptions import RedisError

from chat.stream.event import TERMINAL_TYPES, StreamEvent, make_event, merge_deltas
from chat.stream.hub import decode_entry, hub
from chat.stream.redis import client, stream_key
from sessions_app import queries
from sessions_app.cursor import Cursor
from sessions_app.models import Event
from sessions_app.threads import in_database_thread

logger = logging.getLogger(__name__)

_facts_after = in_database_thread(queries.facts_after)
_has_ended_since = in_database_thread(queries.has_ended_since)

# The events that may carry their run's id: the first of an epoch, and the last of a run.
_NAMING_TYPES = TERMINAL_TYPES | {"message", "discard", "status"}
RETRY_SECONDS = 0.5
FLUSH_SECONDS = 0.2
_FACTS_PAGE = 200
_STREAM_PAGE = 1_000


async def tail(
    session_id: uuid.UUID, after: Cursor, *, is_newest: bool = False
) -> AsyncGenerator[list[StreamEvent], None]:
    """All events behind `after`, in order, in batches, without end. Close it when done.

    `is_newest` says that nothing lies behind `after` yet, which saves the look back. An empty batch comes every
    KEEPALIVE_SECONDS of idling. While Redis is down what is on record comes, and the rest when it is back.
    """
    reader = _Tail(session_id, after, is_whole=is_newest)
    with hub().watch(session_id, after) as watch:
        must_look_back = not is_newest
        while True:
            if must_look_back:
                async for batch in _looked_back(reader):
                    yield batch
            live = await watch.take()
            if live and reader.goes_on_with(live):
                yield live
                continue
            must_look_back = live is None or reader.has_gap(live)
            if not live and not must_look_back:
                async for batch in reader.facts(before=None):
                    yield batch
                yield []
            elif live and not must_look_back:
                async for batch in reader.in_order(live):
                    yield batch


async def _looked_back(reader: "_Tail") -> AsyncIterator[list[StreamEvent]]:
    """What is behind the cursor by now, whenever Redis can be asked for it."""
    idle_since = time.monotonic()
    while True:
        try:
            async for batch in reader.look_back():
                yield batch
            return
        except (RedisError, OSError) as error:
            logger.warning("Redis does not answer a reader, trying again: %s", error)
        async for batch in reader.facts(before=None):
            yield batch
        await asyncio.sleep(RETRY_SECONDS)
        if time.monotonic() - idle_since > settings.KEEPALIVE_SECONDS:
            idle_since = time.monotonic()
            yield []


class _Tail:
    """Where one reader stands. `is_whole`: the last event ended a run, nothing of its epoch can follow."""

    def __init__(self, session_id: uuid.UUID, after: Cursor, *, is_whole: bool) -> None:
        self._session_id = session_id
        self._after = after
        self._is_whole = is_whole

    def goes_on_with(self, events: list[StreamEvent]) -> bool:
        """Whether these follow the cursor one by one, as nearly always; then they count as seen. The hot path."""
        epoch, seq = self._after
        for event in events:
            seq += 1
            if event.id != (epoch, seq):
                return False
        self._seen(events)
        return True

    def has_gap(self, events: list[StreamEvent]) -> bool:
        """Whether something between the cursor and these events, or among them, is missing.

        So it is when Redis lost the stream and its writer wrote it anew behind our back, or when it was cut.
        """
        last = self._after
        for event in events:
            id = event.id
            if id is None or id <= last:
                continue
            if not _follows(id, last):
                return True
            last = id
        return False

    async def look_back(self) -> AsyncIterator[list[StreamEvent]]:
        """What is behind the cursor by now: from the facts up to where the stream begins, then from the stream."""
        oldest, batch = await _read_stream(self._session_id, self._after)
        if oldest is None or oldest > self._after:
            async for facts in self.facts(before=oldest):
                yield facts
        async for part in self._rest_of_stream(batch):
            yield part
        if not self._is_whole and await _has_ended_since(self._session_id, self._after):
            # What is committed comes a moment later by the stream, where nothing has to be thrown away for it.
            await asyncio.sleep(FLUSH_SECONDS)
            _, batch = await _read_stream(self._session_id, self._after)
            async for part in self._rest_of_stream(batch):
                yield part
            if not self._is_whole:  # its worker died between the commit and the stream
                async for facts in self.facts(before=None):
                    yield facts

    async def _rest_of_stream(self, batch: list[StreamEvent]) -> AsyncIterator[list[StreamEvent]]:
        while batch:
            async for part in self.in_order(batch, merge=True):
                yield part
            _, batch = await _read_stream(self._session_id, self._after)

    async def in_order(self, events: list[StreamEvent], *, merge: bool = False) -> AsyncIterator[list[StreamEvent]]:
        """Those of the stream's events that are new, and before each new epoch what the stream misses of the old.

        A worker may have died, or lost its epoch, between a commit and the stream: the end of its epoch is then
        on record only. What is missing elsewhere, and not on record either, is announced.
        """
        new = [event for event in events if event.id and event.id > self._after]
        for _, group in groupby(new, key=lambda event: event.id and event.id.epoch):
            part = list(group)
            first = part[0].id
            assert first is not None
            if (first.epoch > self._after.epoch and not self._is_whole) or not _follows(first, self._after):
                async for facts in self.facts(before=first):
                    yield facts
            if not _follows(first, self._after):
                yield [make_event(None, "discard", {"reason": "gap", "since": str(self._after)})]
            part = [event for event in part if event.id and event.id > self._after]
            if part:
                self._seen(part)
                yield merge_deltas(part) if merge else part

    async def facts(self, *, before: Cursor | None) -> AsyncIterator[list[StreamEvent]]:
        """Facts behind the cursor that begin before `before`."""
        while True:
            page = await _facts_after(self._session_id, self._after, limit=_FACTS_PAGE)
            wanted = [fact for fact in page if before is None or Cursor(fact.epoch, fact.first_seq) < before]
            if wanted:
                events = [event for fact in wanted for event in _as_events(fact, self._after)]
                self._seen(events)
                yield events
            if len(wanted) < _FACTS_PAGE:
                return

    def _seen(self, events: list[StreamEvent]) -> None:
        self._after = events[-1].id or self._after
        self._is_whole = events[-1].type in TERMINAL_TYPES


def _follows(id: Cursor, last: Cursor) -> bool:
    """Whether nothing can be between the two: an epoch's events are numbered from 1, without holes."""
    return id.seq <= last.seq + 1 if id.epoch == last.epoch else id.seq == 1


async def _read_stream(session_id: uuid.UUID, after: Cursor) -> tuple[Cursor | None, list[StreamEvent]]:
    """The id of the oldest event that Redis still has, and a page of those behind `after`."""
    key = stream_key(session_id)
    pipeline = client().pipeline(transaction=True)
    pipeline.execute_command("XRANGE", key, "-", "+", "COUNT", 1)
    pipeline.execute_command("XRANGE", key, f"({after}", "+", "COUNT", _STREAM_PAGE)
    first, page = await pipeline.execute()
    oldest = Cursor.parse(first[0][0].decode()) if first else None
    return oldest, [decode_entry(entry) for entry in page]


def _as_events(fact: Event, after: Cursor) -> list[StreamEvent]:
    event = make_event(Cursor(fact.epoch, fact.seq), fact.type, fact.data)
    if fact.epoch == after.epoch and fact.first_seq <= after.seq:
        # The client has seen a part of this text, and which part nobody knows any more.
        since = str(Cursor(fact.epoch, fact.first_seq))
        return [make_event(None, "discard", {"reason": "merged", "event": fact.type, "since": since}), event]
    return [event]


@dataclass
class RunFilter:
    """Picks one run's events out of its session's: what names the run, and what follows under that epoch.

    A message that steered another turn is answered there: then that turn's events are picked, to its end.
    """

    run_id: str
    epoch: int | None = None
    is_over: bool = False

    def pick(self, batch: list[StreamEvent]) -> list[StreamEvent]:
        return [event for event in batch if not self.is_over and self._is_mine(event)]

    def _is_mine(self, event: StreamEvent) -> bool:
        fields = event.fields() if event.id is not None and event.type in _NAMING_TYPES else {}
        if event.id is None or "run_id" not in fields:
            return self.epoch is not None and (event.id is None or event.id.epoch == self.epoch)
        if fields["run_id"] != self.run_id:
            return False
        self.epoch = event.id.epoch
        if steered_into := fields.get("steered_into"):
            self.run_id = steered_into
        else:
            self.is_over = event.type in TERMINAL_TYPES
        return True

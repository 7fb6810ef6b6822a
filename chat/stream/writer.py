"""The worker's side of the stream: what its runs emit goes to Redis in one pipeline per tick.

A session has one writer, the holder of its epoch. Ids are explicit, so that Redis itself refuses an id of an
older epoch; a stream that meets this is `fenced`, and its run must stop. What is not on record in Postgres yet is
kept until it is: if Redis loses the stream, the next flush finds that out and writes it again.
"""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
from django.conf import settings
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chat.latency import Technique, is_used
from chat.stream.redis import stream_key
from sessions_app.cursor import Cursor
from sessions_app.failpoints import fail_point

logger = logging.getLogger(__name__)

# What is emitted within a tick travels together. The first delta of a run does not wait for it; and the more
# streams flow, the longer it gets: a reader does not see 50 ms, but both sides save most of the work.
TICK_SECONDS = 0.005
MAX_TICK_SECONDS = 0.05
TICK_SECONDS_PER_STREAM = 0.0005
RETRY_SECONDS = 0.5


class _Entry:
    """An event that waits for the next flush: encoded, or the `text` of deltas that are still joined."""

    __slots__ = ("data", "seq", "text", "type")

    def __init__(self, seq: int, type: str, data: bytes | None, text: str = "") -> None:
        self.seq, self.type, self.data, self.text = seq, type, data, text

    def encoded(self) -> bytes:
        if self.data is None:
            self.data = orjson.dumps({"content": self.text})
        return self.data


class RunStream:
    """The events of one run in one epoch, numbered from 1."""

    def __init__(self, writer: "StreamWriter", session_id: uuid.UUID, epoch: int) -> None:
        self.key = stream_key(session_id)
        self.epoch = epoch
        self.seq = 0
        self.is_fenced = False
        self.on_fenced: Callable[[], object] | None = None
        self.pending: list[_Entry] = []
        self.is_flushed = asyncio.Event()  # all that was emitted is in Redis, or never will be
        self.lease_until = math.inf  # monotonic time; later nothing is written, somebody else may be the writer
        self.written_seq = 0  # the newest in Redis, as far as we know
        self._unsettled: list[_Entry] = []  # written, but not on record yet: what we write again if Redis loses it
        self._writer = writer
        self._is_silent = True  # until its first delta

    def emit(self, type: str, data: dict[str, Any]) -> int:
        """Append an event; returns the second half of its id. Raises TypeError for what is not JSON."""
        encoded = orjson.dumps(data)
        self.seq += 1
        self.pending.append(_Entry(self.seq, type, encoded))
        self._writer.wake(self)
        return self.seq

    def delta(self, type: str, text: str) -> int:
        """Append a piece of text, joined with what waits; returns the second half of its event's id."""
        last = self.pending[-1] if self.pending else None
        if last is not None and last.data is None and last.type == type:
            last.text += text
            return last.seq
        self.seq += 1
        self.pending.append(_Entry(self.seq, type, None, text))
        self._writer.wake(self, at_once=self._is_silent and self._writer.is_first_at_once)
        self._is_silent = False
        return self.seq

    def wake(self) -> None:
        """See to it that what waits is written soon."""
        if self.pending:
            self._writer.wake(self)

    def settle(self, seq: int) -> None:
        """Everything up to this is on record as facts, which is where readers find it if Redis loses the stream."""
        self._unsettled = [entry for entry in self._unsettled if entry.seq > seq]

    def has_written(self, entries: list[_Entry]) -> None:
        self.written_seq = entries[-1].seq
        self._unsettled += entries
        if len(self._unsettled) > settings.STREAM_MAX_EVENTS:
            del self._unsettled[: -settings.STREAM_MAX_EVENTS]

    def write_again(self, entries: list[_Entry], newest: Cursor) -> None:
        """Redis holds less or more of this epoch than we believed: all behind `newest` is to be written."""
        self.written_seq = newest.seq if newest.epoch == self.epoch else 0
        known = self._unsettled + entries
        self.pending = [entry for entry in known if entry.seq > self.written_seq] + self.pending
        self._unsettled = [entry for entry in known if entry.seq <= self.written_seq]
        if self.pending:
            self._writer.wake(self)

    def fence(self) -> None:
        """Another writer has a newer epoch: nothing more of this one gets into the stream."""
        self.is_fenced = True
        self.pending, self._unsettled = [], []
        self.is_flushed.set()
        if self.on_fenced:
            self.on_fenced()


# One call a tick for all streams, and atomic, so that a reader that waits for many streams wakes once for all.
# KEYS: the streams. ARGV: the longest a stream may get, its seconds to live, then for each stream the id that must
# be its newest ('': whatever is there), the number of its entries and their id, type and data. Answers for each
# stream with '' or, if nothing was written, with its newest id.
_APPEND = """
local answers = {}
local at = 3
for i, key in ipairs(KEYS) do
    local found = ''
    if ARGV[at] ~= '' then
        local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
        found = newest[1] and newest[1][1] or '0-0'
        if found == ARGV[at] then found = '' end
    end
    for _ = 1, tonumber(ARGV[at + 1]) do
        if found == '' then
            local reply = redis.pcall('XADD', key, 'MAXLEN', '~', ARGV[1],
                ARGV[at + 2], 't', ARGV[at + 3], 'd', ARGV[at + 4])
            if type(reply) == 'table' and reply.err then
                local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
                if not (newest[1] and string.find(reply.err, 'equal or smaller')) then
                    return redis.error_reply(reply.err)
                end
                found = newest[1][1]
            end
        end
        at = at + 3
    end
    at = at + 2
    redis.call('EXPIRE', key, ARGV[2])
    answers[i] = found
end
return answers
"""


class StreamWriter:
    """Flushes all streams of this process. Lives on the worker's event loop."""

    def __init__(self, redis: Redis) -> None:
        self.is_first_at_once = is_used(Technique.STREAMING)
        self._append = redis.register_script(_APPEND)
        self._dirty: set[RunStream] = set()
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="stream-writer")

    async def stop(self) -> None:
        """Flush what waits, then end."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()

    def open(self, session_id: uuid.UUID, epoch: int) -> RunStream:
        return RunStream(self, session_id, epoch)

    def wake(self, stream: RunStream, *, at_once: bool = False) -> None:
        stream.is_flushed.clear()
        self._dirty.add(stream)
        self._wake.set()
        if at_once:
            self._hurry.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._hurry.clear()
            flowing = len(self._dirty)
            try:
                await self._flush()
            except (RedisError, OSError) as error:
                # Nothing is lost: what could not be written stays pending, its deltas joined.
                logger.warning("Redis does not take events, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()
            else:
                await self._pause(flowing)

    async def _pause(self, flowing: int) -> None:
        tick = min(max(TICK_SECONDS, flowing * TICK_SECONDS_PER_STREAM), MAX_TICK_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(tick):
                await self._hurry.wait()

    async def _flush(self) -> None:
        now = time.monotonic()
        batch = [(stream, stream.pending) for stream in self._dirty if stream.pending and now < stream.lease_until]
        if not batch:
            return
        # What has outlived its lease waits for the lease's renewal, which wakes it.
        self._dirty = {stream for stream in self._dirty if stream.pending and now >= stream.lease_until}
        arguments: list[str | int | bytes] = [settings.STREAM_MAX_EVENTS, settings.STREAM_TTL_SECONDS]
        for stream, entries in batch:
            stream.pending = []
            arguments.append(f"{stream.epoch}-{stream.written_seq}" if stream.written_seq else "")
            arguments.append(len(entries))
            for entry in entries:
                arguments += (f"{stream.epoch}-{entry.seq}", entry.type, entry.encoded())
        fail_point("before_flush")
        try:
            answers = await self._append(keys=[stream.key for stream, _ in batch], args=arguments)
        except (RedisError, OSError):
            for stream, entries in batch:
                stream.pending = entries + stream.pending
                self._dirty.add(stream)
            raise
        fail_point("after_flush")
        for (stream, entries), newest in zip(batch, answers, strict=True):
            if not newest:
                stream.has_written(entries)
            else:
                self._settle_refusal(stream, entries, Cursor.parse(newest.decode()))
            if not stream.pending:
                stream.is_flushed.set()

    def _settle_refusal(self, stream: RunStream, entries: list[_Entry], newest: Cursor) -> None:
        """Nothing was written: a newer epoch writes, Redis lost what it had, or a repeated flush met what its first
        try had written."""
        if newest.epoch > stream.epoch:
            stream.fence()
        else:
            if newest < (stream.epoch, stream.written_seq):
                logger.warning("Redis has lost events of %s, writing them again", stream.key)
            stream.write_again(entries, newest)

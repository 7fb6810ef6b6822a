"""The worker's side of the stream: what its runs emit goes to Redis in one pipeline per tick.

A session has one writer, the holder of its epoch. Ids are explicit, so that Redis itself refuses an id of an
older epoch; a stream that meets this is `fenced`, and its run must stop.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
from django.conf import settings
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chat.stream.redis import stream_key
from sessions_app.cursor import Cursor

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
        return orjson.dumps({"content": self.text}) if self.data is None else self.data


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
        self._writer.wake(self, at_once=self._is_silent)
        self._is_silent = False
        return self.seq

    def fence(self) -> None:
        """Another writer has a newer epoch: nothing more of this one gets into the stream."""
        self.is_fenced = True
        self.pending = []
        if self.on_fenced:
            self.on_fenced()


# One call a tick for all streams, and atomic, so that a reader that waits for many streams wakes once for all.
# KEYS: the streams. ARGV: the longest a stream may get, its seconds to live, then for each stream the number of
# its entries and their id, type and data. Answers for each stream with '' or, if an id was refused, the newest id.
_APPEND = """
local answers = {}
local at = 3
for i, key in ipairs(KEYS) do
    local refused = ''
    for _ = 1, tonumber(ARGV[at]) do
        if refused == '' then
            local reply = redis.pcall('XADD', key, 'MAXLEN', '~', ARGV[1],
                ARGV[at + 1], 't', ARGV[at + 2], 'd', ARGV[at + 3])
            if type(reply) == 'table' and reply.err then
                local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
                if not newest[1] then return redis.error_reply(reply.err) end
                refused = newest[1][1]
            end
        end
        at = at + 3
    end
    at = at + 1
    redis.call('EXPIRE', key, ARGV[2])
    answers[i] = refused
end
return answers
"""


class StreamWriter:
    """Flushes all streams of this process. Lives on the worker's event loop."""

    def __init__(self, redis: Redis) -> None:
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
        if not self._dirty:
            return
        batch = [(stream, stream.pending) for stream in self._dirty]
        self._dirty = set()
        arguments: list[str | int | bytes] = [settings.STREAM_MAX_EVENTS, settings.STREAM_TTL_SECONDS]
        for stream, entries in batch:
            stream.pending = []
            arguments.append(len(entries))
            for entry in entries:
                arguments += (f"{stream.epoch}-{entry.seq}", entry.type, entry.encoded())
        try:
            answers = await self._append(keys=[stream.key for stream, _ in batch], args=arguments)
        except (RedisError, OSError):
            for stream, entries in batch:
                stream.pending = entries + stream.pending
                self._dirty.add(stream)
            raise
        for (stream, entries), newest in zip(batch, answers, strict=True):
            if newest:
                self._settle_refusal(stream, entries, Cursor.parse(newest.decode()))
            if not stream.pending:
                stream.is_flushed.set()

    def _settle_refusal(self, stream: RunStream, entries: list[_Entry], newest: Cursor) -> None:
        """Redis refused an id: a newer epoch writes, or a repeated flush met what its first try had written."""
        if newest.epoch > stream.epoch:
            stream.fence()
            return
        unwritten = [entry for entry in entries if (stream.epoch, entry.seq) > newest]
        if unwritten:
            stream.pending = unwritten + stream.pending
            self.wake(stream)

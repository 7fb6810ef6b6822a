"""The gateway's side of the stream: one blocking XREAD per process for all the sessions that its clients watch."""

import asyncio
import logging
import os
import time
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.exceptions import RedisError

from chat.stream.event import StreamEvent
from chat.stream.redis import client, stream_key
from sessions_app.cursor import Cursor

logger = logging.getLogger(__name__)

BLOCK_MS = 2_000  # below redis-py's socket timeout, so that a dead connection is noticed
# After a read: more may arrive and travel together. Where little flows nobody waits for that.
TICK_SECONDS_PER_STREAM = 0.0001
MAX_TICK_SECONDS = 0.005
MAX_BUFFERED = 500  # events; a client that is further behind reads the stream again, in larger batches
RETRY_SECONDS = 0.5


class Watch:
    """One client's view of one session from now on. Use as a context manager."""

    def __init__(self, hub: "StreamHub", key: str) -> None:
        self.key = key
        self._hub = hub
        self._events: list[StreamEvent] = []
        self._fell_behind = False
        self._was_busy = True
        self._ready = asyncio.Event()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hub.unwatch(self)

    async def take(self) -> list[StreamEvent] | None:
        """Wait for new events; none of them after KEEPALIVE_SECONDS of idling.

        None if there were more than are kept, and the stream must be read again.
        """
        await self._ready.wait()
        self._ready.clear()
        events, self._events = self._events, []
        if self._fell_behind:
            self._fell_behind = False
            return None
        return events

    def put(self, events: list[StreamEvent]) -> None:
        if self._fell_behind or len(self._events) + len(events) > MAX_BUFFERED:
            self._events, self._fell_behind = [], True
        else:
            self._events += events
        self._was_busy = True
        self._ready.set()

    def lose_track(self) -> None:
        """The connection to Redis broke: what came meanwhile must be read from the stream."""
        self._events, self._fell_behind = [], True
        self._ready.set()

    def tick(self) -> None:
        """Wake the client if nothing came since the last tick."""
        if not self._was_busy:
            self._ready.set()
        self._was_busy = False


class StreamHub:
    """Reads every watched stream once and hands the events to its watches."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._watches: dict[str, set[Watch]] = {}
        self._positions: dict[str, str] = {}
        # Adding an entry here ends the XREAD that blocks, so that it starts again with a new stream.
        self._wake_key = f"agentsite:wake:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._positions[self._wake_key] = "0-0"
        self._is_behind = False  # since Redis did not answer
        self._is_blocked = False  # in an XREAD, and not woken yet
        self._task: asyncio.Task[None] | None = None
        self._waking: asyncio.Task[None] | None = None  # kept, for the event loop itself would not

    def watch(self, session_id: uuid.UUID, after: Cursor) -> Watch:
        """Begin to watch; every event behind `after` that is added from now on will come."""
        watch = Watch(self, stream_key(session_id))
        self._watches.setdefault(watch.key, set()).add(watch)
        if self._task is None or self._task.done():
            self._positions[watch.key] = str(after)
            self._task = asyncio.create_task(self._read_forever(), name="stream-hub")
        elif watch.key not in self._positions:
            self._positions[watch.key] = str(after)
            self._wake()
        return watch

    def unwatch(self, watch: Watch) -> None:
        watches = self._watches.get(watch.key)
        if watches is None:
            return
        watches.discard(watch)
        if not watches:
            del self._watches[watch.key]
            self._positions.pop(watch.key, None)

    def _wake(self) -> None:
        """Let the next XREAD begin now, it has the new streams. One wake is enough for all that come until then: in a
        burst each of them would open a connection of its own, which costs more than all the rest of a turn here."""
        if self._is_blocked:
            self._is_blocked = False
            self._waking = asyncio.create_task(self._end_read(), name="stream-hub-wake")

    async def _end_read(self) -> None:
        try:
            await self._redis.execute_command("XADD", self._wake_key, "MAXLEN", 1, "*", "w", "")
        except (RedisError, OSError) as error:
            # Nor is there an XREAD to wake, as a rule; else it ends after BLOCK_MS.
            logger.warning("Redis does not wake the stream reader: %s", error)

    async def _read_forever(self) -> None:
        next_tick = time.monotonic() + settings.KEEPALIVE_SECONDS
        while self._watches:
            try:
                await self._read_once()
            except (RedisError, OSError) as error:
                logger.warning("Redis does not answer the stream reader, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._is_behind = True
            if time.monotonic() >= next_tick:
                next_tick += settings.KEEPALIVE_SECONDS
                await self._tick()

    async def _tick(self) -> None:
        for watch in self._all_watches():
            watch.tick()
        with suppress(RedisError, OSError):
            await self._redis.expire(self._wake_key, 4 * settings.KEEPALIVE_SECONDS)  # gone soon after this process

    def _all_watches(self) -> list[Watch]:
        return [watch for watches in self._watches.values() for watch in watches]

    async def _read_once(self) -> None:
        self._is_blocked = True
        try:
            reply = await self._redis.execute_command(
                "XREAD",
                "BLOCK",
                BLOCK_MS,
                "COUNT",
                MAX_BUFFERED,
                "STREAMS",
                *self._positions,
                *self._positions.values(),
            )
        finally:
            self._is_blocked = False
        if self._is_behind:
            self._is_behind = False
            for watch in self._all_watches():
                watch.lose_track()
        if not reply:
            return
        for raw_key, entries in reply:
            self._deliver(raw_key.decode(), entries)
        await asyncio.sleep(min(len(reply) * TICK_SECONDS_PER_STREAM, MAX_TICK_SECONDS))

    def _deliver(self, key: str, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        if key not in self._positions:
            return  # its last watch left during the read
        self._positions[key] = entries[-1][0].decode()
        if key == self._wake_key:
            return
        events = [decode_entry(entry) for entry in entries]
        for watch in self._watches.get(key, ()):
            watch.put(events)


def decode_entry(entry: tuple[bytes, dict[bytes, bytes]]) -> StreamEvent:
    """A stream's entry as redis-py gives it."""
    id_, fields = entry
    epoch, _, seq = id_.partition(b"-")
    return StreamEvent(Cursor(int(epoch), int(seq)), fields[b"t"].decode(), fields[b"d"])


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, StreamHub] = WeakKeyDictionary()


def hub() -> StreamHub:
    """The hub of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _hubs.get(loop)
    if found is None:
        found = _hubs[loop] = StreamHub(client())
    return found

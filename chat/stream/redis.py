"""The asyncio Redis client of this process: made lazily, one per event loop."""

import asyncio
import uuid
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.asyncio import Redis

from sessions_app.cursor import Cursor
from sessions_app.redis import sync_client

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = WeakKeyDictionary()


def client() -> Redis:
    loop = asyncio.get_running_loop()
    found = _clients.get(loop)
    if found is None:
        found = _clients[loop] = Redis.from_url(settings.REDIS_URL, protocol=2)
    return found


def newest_in_stream(session_id: uuid.UUID) -> Cursor | None:
    """The id of the newest event in Redis, for sync code; None if there is none. Raises RedisError."""
    entries: Any = sync_client().xrevrange(stream_key(session_id), count=1)
    return Cursor.parse(entries[0][0].decode()) if entries else None


def stream_key(session_id: uuid.UUID) -> str:
    """Where a session's live events are, entries `<epoch>-<n>` with the fields t (type) and d (data, JSON)."""
    return f"agentsite:events:{session_id}"

"""The asyncio Redis client of this process: made lazily, one per event loop."""

import asyncio
import uuid
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.asyncio import Redis

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = WeakKeyDictionary()


def client() -> Redis:
    loop = asyncio.get_running_loop()
    found = _clients.get(loop)
    if found is None:
        found = _clients[loop] = Redis.from_url(settings.REDIS_URL, protocol=2)
    return found


def stream_key(session_id: uuid.UUID) -> str:
    """Where a session's live events are, entries `<epoch>-<n>` with the fields t (type) and d (data, JSON)."""
    return f"agentsite:events:{session_id}"

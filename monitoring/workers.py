"""Which workers live: each writes the time of its last heartbeat into one sorted set."""

import time
from typing import Any

from django.conf import settings
from redis import Redis

HEARTBEAT_KEY = "agentsite:workers"  # worker -> unix time of its last beat
HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 15.0


def living_workers(redis: Redis) -> list[str]:
    since = time.time() - DEAD_AFTER_SECONDS
    names: Any = redis.zrangebyscore(HEARTBEAT_KEY, since, "+inf")
    return [name.decode() for name in names]


def connect() -> Redis:
    """A connection for one look; close it."""
    return Redis.from_url(settings.REDIS_URL, socket_timeout=2.0, socket_connect_timeout=2.0)

"""Which workers live: each writes the time of its last heartbeat into one sorted set."""

import time
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from sessions_app.redis import sync_client

HEARTBEAT_KEY = "agentsite:workers"  # worker -> unix time of its last beat
HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 15.0
_SERVED = "agentsite:served:{}"  # a queue's name -> there while a living worker listens to it


def living_workers(redis: Redis) -> list[str]:
    since = time.time() - DEAD_AFTER_SECONDS
    names: Any = redis.zrangebyscore(HEARTBEAT_KEY, since, "+inf")
    return [name.decode() for name in names]


async def beat(redis: AsyncRedis, worker: str, queues: Iterable[str]) -> None:
    """The worker lives, and listens to these queues."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.zadd(HEARTBEAT_KEY, {worker: time.time()})
    pipeline.zremrangebyscore(HEARTBEAT_KEY, 0, time.time() - 12 * HEARTBEAT_SECONDS)
    for queue in queues:
        pipeline.set(_SERVED.format(queue), worker, ex=int(DEAD_AFTER_SECONDS))
    await pipeline.execute()


def is_served(queue: str) -> bool:
    """Whether a living worker listens to it; raises RedisError."""
    return bool(sync_client().exists(_SERVED.format(queue)))


def connect() -> Redis:
    """A connection for one look; close it."""
    return Redis.from_url(settings.REDIS_URL, socket_timeout=2.0, socket_connect_timeout=2.0)

"""The Redis client of sync code: one per process, its connections shared by the threads."""

from functools import cache

from django.conf import settings
from redis import Redis


@cache
def sync_client() -> Redis:
    return Redis.from_url(settings.REDIS_URL, socket_timeout=2.0, socket_connect_timeout=2.0)

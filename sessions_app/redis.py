"""The Redis client of sync code: one per process, its connections shared by the threads."""

import time
from functools import cache

from django.conf import settings
from redis import Redis

FRESH_SECONDS = 1.0  # an answer is taken for a sign of life so long


@cache
def sync_client() -> Redis:
    return Redis.from_url(settings.REDIS_URL, socket_timeout=2.0, socket_connect_timeout=2.0)


class _Answers:
    """When Redis last answered this process."""

    newest = float("-inf")


def note_answer() -> None:
    """Redis has just answered."""
    _Answers.newest = time.monotonic()


def check_answers() -> None:
    """Ask Redis whether it is there, unless it has just answered somebody; raises RedisError."""
    if time.monotonic() - _Answers.newest > FRESH_SECONDS:
        sync_client().ping()
        note_answer()

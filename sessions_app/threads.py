"""The threads in which asyncio code reaches the database.

Not Django's thread-sensitive ones: in a request those last as long as its response, and a stream would hold
a thread for hours.
"""

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

DATABASE_EXECUTOR = ThreadPoolExecutor(settings.DATABASE_THREADS, thread_name_prefix="database")

P = ParamSpec("P")
R = TypeVar("R")


def in_database_thread(function: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """The sync function as a coroutine function; its connection goes back to the pool afterwards."""
    wrapped: Callable[P, Awaitable[R]] = database_sync_to_async(
        _mending(function), thread_sensitive=False, executor=DATABASE_EXECUTOR
    )
    return wrapped


def _mending(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (OperationalError, InterfaceError):
            mend_pool()
            raise

    return wrapped


def mend_pool() -> None:
    """A connection broke, so the server may have restarted: throw away the pool's others that are broken too."""
    connection.close_if_unusable_or_obsolete()
    if (pool := getattr(connection, "pool", None)) is not None:
        pool.check()

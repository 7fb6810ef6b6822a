"""The threads in which asyncio code reaches the database.

Not Django's thread-sensitive ones: in a request those last as long as its response, and a stream would hold
a thread for hours.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import ParamSpec, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

DATABASE_EXECUTOR = ThreadPoolExecutor(settings.DATABASE_THREADS, thread_name_prefix="database")
KEPT_SECONDS = 60.0  # then the pool has a look at the connection, which it renews from time to time

P = ParamSpec("P")
R = TypeVar("R")


class _Mended:
    """When connections of this process were last found broken."""

    at = 0.0  # monotonic


class _Kept(threading.local):
    """A thread's connection; taking it from the pool and giving it back would cost as much as a small statement."""

    since = 0.0  # monotonic


_kept = _Kept()


def in_database_thread(function: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """The sync function as a coroutine function."""

    @wraps(function)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        call = partial(_call, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(DATABASE_EXECUTOR, call)

    return wrapped


def _call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    now = time.monotonic()
    if _kept.since <= _Mended.at or now - _kept.since > KEPT_SECONDS:
        _give_back(is_doubtful=_kept.since <= _Mended.at)
        _kept.since = now
    try:
        return function(*args, **kwargs)
    except (OperationalError, InterfaceError):
        mend_pool()
        raise


def _give_back(*, is_doubtful: bool) -> None:
    """To the pool; if others broke since it was taken, only if this one did not, for the pool would not notice."""
    if is_doubtful and connection.connection is not None and not connection.is_usable():
        connection.connection.close()
    connection.close()


def mend_pool() -> None:
    """A connection broke, so the server may have restarted: throw away the others of this process that are broken."""
    _Mended.at = time.monotonic()
    connection.close_if_unusable_or_obsolete()
    if (pool := getattr(connection, "pool", None)) is not None:
        pool.check()

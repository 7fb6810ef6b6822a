"""The threads in which asyncio code reaches the database.

Not Django's thread-sensitive ones: in a request those last as long as its response, and a stream would hold
a thread for hours.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connection

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
    loop: asyncio.AbstractEventLoop | None = None  # that waits for this thread


_kept = _Kept()


def in_database_thread(function: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """The sync function as a coroutine function."""

    @wraps(function)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(DATABASE_EXECUTOR, partial(_call, loop, function, *args, **kwargs))

    return wrapped


def _call(loop: asyncio.AbstractEventLoop, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    now = time.monotonic()
    if _kept.since <= _Mended.at or now - _kept.since > KEPT_SECONDS:
        _give_back()
        _kept.since = now
    _kept.loop = loop
    try:
        return function(*args, **kwargs)
    finally:
        if connection.errors_occurred:  # also where the function made an answer of the exception
            mend_pool()
        elif connection.connection is not None and not connection.get_autocommit():
            connection.close()  # nothing of this call shall enter the next one's transaction


def _give_back() -> None:
    """To the pool, which would not notice if it has broken meanwhile."""
    if connection.connection is not None and not connection.is_usable():
        connection.connection.close()
    connection.close()


def on_callers_loop(function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a coroutine function from sync code: on the loop that waits for this database thread, whose connections are
    open; elsewhere on a loop of its own."""
    loop = _kept.loop
    if loop is None:
        return async_to_sync(function)(*args, **kwargs)
    return asyncio.run_coroutine_threadsafe(function(*args, **kwargs), loop).result()


def mend_pool() -> None:
    """A connection broke, so the server may have restarted: throw away the others of this process that are broken."""
    _Mended.at = time.monotonic()
    connection.close_if_unusable_or_obsolete()
    if (pool := getattr(connection, "pool", None)) is not None:
        pool.check()

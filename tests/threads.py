"""The database threads of the process that runs the tests."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from django.conf import settings

from sessions_app.threads import in_database_thread


async def in_all_threads(function: Callable[[], Any]) -> list[Any]:
    """What it gives or raises in each of them; all are held until all are there."""
    gate = threading.Barrier(settings.DATABASE_THREADS)

    def wait_and_call() -> Any:
        gate.wait(30)
        return function()

    calls = [in_database_thread(wait_and_call)() for _ in range(settings.DATABASE_THREADS)]
    return await asyncio.gather(*calls, return_exceptions=True)

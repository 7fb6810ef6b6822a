"""What asyncio code does in database threads, while the database goes away and comes back."""

import asyncio

import pytest
from django.conf import settings
from django.db import OperationalError, connection

from sessions_app.threads import in_database_thread
from tests.threads import in_all_threads

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)


def ask() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


_ask = in_database_thread(ask)


def test_a_thread_keeps_its_connection() -> None:
    async def run() -> None:
        pids = await in_all_threads(ask)
        assert len(set(pids)) == settings.DATABASE_THREADS
        assert set(await in_all_threads(ask)) == set(pids)

    asyncio.run(run())


def test_after_a_restart_of_the_database_one_call_fails() -> None:
    async def run() -> None:
        pids = await in_all_threads(ask)
        await in_database_thread(terminate)(pids)
        failures = 0
        for _ in range(3 * settings.DATABASE_THREADS):
            try:
                await _ask()
            except OperationalError:
                failures += 1
        assert failures <= 1
        assert not [answer for answer in await in_all_threads(ask) if isinstance(answer, Exception)]

    asyncio.run(run())


def test_a_call_that_answers_for_the_lost_database_leaves_no_lost_connection() -> None:
    def answer() -> bool:
        try:
            return ask() > 0
        except OperationalError:
            return False

    async def run() -> None:
        pids = await in_all_threads(ask)
        await in_database_thread(terminate)(pids)
        answers = [await in_database_thread(answer)() for _ in range(3 * settings.DATABASE_THREADS)]
        assert answers.count(False) <= 1

    asyncio.run(run())


def terminate(pids: list[int]) -> None:
    """End these, but not the own one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (own,) = cursor.fetchone()
        cursor.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [list({*pids} - {own})])

"""A run's writes to Postgres, from the event loop: each in a database thread, tried again while the lease lasts.

A database that restarts loses no run: what is not on record yet is written when it is back, unless that takes longer
than the lease; then another worker may hold the run, and this one stops.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

from django.db import IntegrityError, InterfaceError, OperationalError
from psycopg_pool import PoolTimeout

from chat.stream.writer import RunStream
from monitoring import ledger, pausing
from monitoring.ledger import BudgetExceededError, ModelCall, Reserved
from sessions_app.errors import StaleEpochError
from sessions_app.models import Run, RunStatus
from sessions_app.services import claiming, effects, recording, steering, summaries, telling
from sessions_app.services.claiming import Claim
from sessions_app.services.recording import Aftermath, NewEvent, Step
from sessions_app.services.steering import Absorbed
from sessions_app.threads import in_database_thread

logger = logging.getLogger(__name__)

DATABASE_DOWN = (OperationalError, InterfaceError, PoolTimeout)
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
R = TypeVar("R")

_record_step = in_database_thread(recording.record_step)
_finish_run = in_database_thread(recording.finish_run)
_park_run = in_database_thread(recording.park_run)
_read_aftermath = in_database_thread(recording.read_aftermath)
_give_back = in_database_thread(claiming.give_back)
_start_calls = in_database_thread(effects.start_calls)
_absorb_steering = in_database_thread(steering.absorb_steering)
_record_told = in_database_thread(telling.record_told)
_reserve = in_database_thread(ledger.reserve)
_release = in_database_thread(ledger.release)
_pause_run = in_database_thread(pausing.pause_run)
_mark_told = in_database_thread(summaries.mark_told)


@in_database_thread
def _is_rolled_back(run_id: Any) -> bool:
    return Run.objects.filter(pk=run_id, is_rolled_back=True).exists()


async def unbroken(writing: Coroutine[Any, Any, R]) -> R:
    """A write and what follows from it, as one. A thread writes on whatever one does: whoever is cancelled meanwhile
    goes on when it has ended, and knows whether it is on record."""
    task = asyncio.create_task(writing, name="unbroken-write")
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait({task})


class Persistence:
    """Of one attempt at one run. Everything raises StaleEpochError once the run is another's."""

    def __init__(self, claim: Claim, stream: RunStream) -> None:
        self._claim = claim
        self._stream = stream

    async def record_step(self, step: Step) -> Aftermath:
        return await self._write(lambda: _record_step(claim=self._claim, step=step))

    async def finish_run(self, *, status: RunStatus, step: Step, **end: Any) -> Aftermath:
        return await self._write(lambda: _finish_run(claim=self._claim, status=status, step=step, **end))

    async def park(self, step: Step, awaiting: list[str], agent_state: Any) -> None:
        end: dict[str, Any] = {"awaiting": awaiting, "agent_state": agent_state}
        await self._write(lambda: _park_run(claim=self._claim, step=step, **end))

    async def pause(self, step: Step, error: BudgetExceededError, agent_state: Any) -> None:
        end: dict[str, Any] = {"error": error, "agent_state": agent_state}
        await self._write(lambda: _pause_run(claim=self._claim, step=step, **end))

    async def reserve(self, call: ModelCall) -> Reserved:
        return await self._write(lambda: _reserve(call))

    async def release(self, reservation_id: int) -> None:
        await self._write(lambda: _release(reservation_id))

    async def start_calls(self, call_ids: list[str]) -> None:
        await self._write(lambda: _start_calls(claim=self._claim, call_ids=call_ids))

    async def absorb_steering(self, position: int, seq: int) -> Absorbed:
        return await self._write(lambda: _absorb_steering(claim=self._claim, position=position, seq=seq))

    async def record_told(self, events: list[NewEvent]) -> None:
        claim = self._claim
        await self._write(lambda: _record_told(session_id=claim.session_id, epoch=claim.epoch, events=events))

    async def mark_told(self, summary_ids: list[int]) -> None:
        await self._write(lambda: _mark_told(summary_ids=summary_ids))

    async def prepare(self, prepare: Callable[[], Awaitable[R]]) -> R:
        """What reads the database before the agent begins."""
        return await self._write(prepare)

    async def give_back(self) -> bool:
        return await self._write(lambda: _give_back(claim=self._claim))

    async def is_rolled_back(self) -> bool:
        return await self._write(lambda: _is_rolled_back(self._claim.run_id))

    async def _write(self, write: Callable[[], Awaitable[R]]) -> R:
        pause = 0.0
        while True:
            try:
                return await write()
            except DATABASE_DOWN as error:
                pause = min(2 * pause or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
                if time.monotonic() + pause > self._stream.lease_until:
                    logger.warning("Run %s: no database within its lease, this worker stops", self._claim.run_id)
                    raise StaleEpochError from error
                logger.warning("Run %s: the database does not answer, trying again", self._claim.run_id)
                await asyncio.sleep(pause)
            except IntegrityError:
                if not pause:
                    raise
                # Only the answer to the first try was lost: what it wrote is on record.
                return cast(R, await _read_aftermath(claim=self._claim))

"""The worker process: one asyncio loop on which all its runs execute, whatever thread Celery calls from."""

import asyncio
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cache
from typing import Any

import uvloop
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import close_old_connections
from redis.exceptions import RedisError

from chat.agents.mcp_pool import mcp_pool
from chat.context.embedding import embed_query
from chat.routing import queues_of_worker
from chat.runs.dispatch import (
    ask_to_tend_context,
    dispatch,
    dispatch_granted,
    dispatch_next,
    release,
    release_unless_running,
)
from chat.runs.execute import Execution
from chat.runs.hints import WORKERS
from chat.runs.persistence import DATABASE_DOWN
from chat.runs.prepare import endpoints_in_use, preparations, warm_up_endpoints
from chat.runs.work import Work, read_newest
from chat.stream.redis import client
from chat.stream.writer import StreamWriter
from monitoring import slots
from monitoring.speculation import speculation
from monitoring.workers import HEARTBEAT_SECONDS, beat
from sessions_app.errors import StaleEpochError
from sessions_app.failpoints import fail_point
from sessions_app.prompt import Newest
from sessions_app.services import cancelling, claiming
from sessions_app.services.dispatching import mark_undispatched
from sessions_app.services.recording import Aftermath
from sessions_app.threads import in_database_thread, mend_pool
from sessions_app.token_counting import count_tokens

logger = logging.getLogger(__name__)

_HOST = re.sub(r"[^a-zA-Z0-9.-]", "-", socket.gethostname())[:30]  # what a channel's name may hold
FLUSH_TIMEOUT_SECONDS = 1.0
# Of a burst, a few threads at a time claim: more only fight for the interpreter, and each waits longer.
CLAIMING_THREADS = 3
DEFAULT_ROOM = 256  # runs at once, until the worker says how many

_untold_runs = in_database_thread(cancelling.untold_runs)
_tell_without_worker = in_database_thread(cancelling.tell_without_worker)
_dispatch = in_database_thread(dispatch)
_tend_context = in_database_thread(ask_to_tend_context)
_renew_leases = in_database_thread(claiming.renew_leases)
_prepare = in_database_thread(preparations.prepare)
_endpoints_in_use = in_database_thread(endpoints_in_use)


@in_database_thread
def _renew_slots(lanes: dict[uuid.UUID, str]) -> None:
    dispatch_granted(slots.renew(lanes))


@in_database_thread
def _leave(run_id: uuid.UUID, session_id: uuid.UUID) -> None:
    """The run needs no slot any more; the session's next one, if this was the end, may go."""
    release(run_id)
    dispatch_next(session_id)


@dataclass(frozen=True)
class _Taken:
    """A claimed run. `lane` is that of its slot, `lease_until` monotonic time."""

    work: Work
    lane: str
    lease_until: float


class WorkerHost:
    """Runs what Celery hands over, renews the leases, and listens for cancels. One per process."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._active: dict[uuid.UUID, tuple[Execution, asyncio.Task[None]]] = {}  # by session
        self._lanes: dict[uuid.UUID, str] = {}  # of the runs' slots
        self._claiming = threading.Semaphore(CLAIMING_THREADS)
        self._room = threading.Semaphore(DEFAULT_ROOM)
        self._is_draining = False
        self._channel = ""
        count_tokens("warm up")  # loads the encoding before the first run needs it
        threading.Thread(target=self._loop.run_forever, name="runs", daemon=True).start()
        self._submit(self._start()).result()

    def limit_runs(self, limit: int) -> None:
        """So many go on at once; called before the first one comes."""
        self._room = threading.Semaphore(limit)

    def run(self, run_ids: Sequence[uuid.UUID]) -> None:
        """Claim these runs, as there is room for them, and see them to their ends, or until they are handed over.

        Those that are not to be had are left alone.
        """
        executing: list[Future[None]] = []
        waiting = list(run_ids)
        while waiting:
            room = self._take_room(len(waiting))
            executing += self._begin(waiting[:room])
            del waiting[:room]
        wait(executing)
        for future in executing:
            future.result()

    def _begin(self, run_ids: Sequence[uuid.UUID]) -> list["Future[None]"]:
        """Start those of these runs that are to be had; the room that was taken for the others is free again."""
        begun: list[Future[None]] = []
        try:
            with self._claiming:
                for taken in self._take(run_ids):
                    begun.append(self._submit(self._execute(taken)))
                    begun[-1].add_done_callback(self._give_room)
        finally:
            for _ in run_ids[len(begun) :]:
                self._room.release()
        return begun

    def _take_room(self, wanted: int) -> int:
        """Wait for the room of one run at least; returns for how many there is."""
        self._room.acquire()
        taken = 1
        while taken < wanted and self._room.acquire(blocking=False):
            taken += 1
        return taken

    def _give_room(self, _: "Future[None]") -> None:
        self._room.release()

    def _take(self, run_ids: Sequence[uuid.UUID]) -> Iterator[_Taken]:
        """Those that are ours now: the short ones at once, each long one as soon as it is read."""
        try:
            if lanes := self._confirm_slots(run_ids):
                yield from self._claim(lanes)
        except DATABASE_DOWN as error:
            mend_pool()
            logger.warning("Runs are not claimed, the sweeper will send them again: %s", _first_line(error))
        finally:
            close_old_connections()  # this thread waits now; its connection serves others meanwhile

    def _confirm_slots(self, run_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
        """The lanes of the runs' slots; those that this worker is not to take now are missing."""
        if self._is_draining:
            mark_undispatched(run_ids)
            return {}
        try:
            lanes = slots.confirm(run_ids)
        except (RedisError, OSError) as error:
            logger.warning("The slots of %d runs cannot be seen, the sweeper sends them again: %s", len(run_ids), error)
            mark_undispatched(run_ids)
            return {}
        for run_id in set(run_ids) - lanes.keys():
            dispatch(run_id)  # its slot has expired or is lost: it has to ask again
        return lanes

    def _claim(self, lanes: dict[uuid.UUID, str]) -> Iterator[_Taken]:
        fail_point("before_claim")
        lease_until = time.monotonic() + settings.RUN_LEASE_SECONDS  # from before Postgres begins to count
        claims = claiming.claim_runs(run_ids=list(lanes), worker=self._channel)
        fail_point("after_claim")
        for run_id in lanes.keys() - {claim.run_id for claim in claims}:
            release_unless_running(run_id)
        read = _read_together(claims)
        for claim in claims:
            if (work := _read_work(claim, read.get(claim.run_id))) is not None:
                yield _Taken(work, lanes[claim.run_id], lease_until)

    def drain(self) -> None:
        """The worker is to stop: hand over every run, at its next step's boundary or after DRAIN_SECONDS anyway."""
        if not self._is_draining:
            self._is_draining = True
            self._submit(self._drain())

    def _submit(self, coroutine: Any) -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _start(self) -> None:
        self._writer = StreamWriter(client())
        self._writer.start()
        self._layer = get_channel_layer()
        self._channel = await self._layer.new_channel(f"worker.{_HOST}")
        self._tasks = [
            asyncio.create_task(self._listen(), name="hint-listener"),
            asyncio.create_task(self._renew_forever(), name="lease-renewal"),
            asyncio.create_task(self._renew_slots_forever(), name="slot-renewal"),
            asyncio.create_task(self._beat(), name="heartbeat"),
            asyncio.create_task(self._keep_warm(), name="warm-up"),
        ]

    # --- one run ---------------------------------------------------------------------------------------------------

    async def _execute(self, taken: _Taken) -> None:
        claim = taken.work.claim
        stream = self._writer.open(claim.session_id, claim.epoch)
        stream.lease_until = taken.lease_until
        execution = Execution(taken.work, stream)
        execution.is_leaving = self._is_draining
        task = asyncio.create_task(execution.execute(), name=f"run-{claim.run_id}")
        stream.on_fenced = task.cancel
        self._active[claim.session_id] = (execution, task)
        self._lanes[claim.run_id] = taken.lane
        try:
            await asyncio.gather(task, return_exceptions=True)
        finally:
            del self._active[claim.session_id], self._lanes[claim.run_id]
        if execution.is_given_back:
            await _dispatch(claim.run_id)
        try:
            # The next run of the session writes under a higher epoch, which would shut this stream.
            await asyncio.wait_for(stream.is_flushed.wait(), FLUSH_TIMEOUT_SECONDS)
        except TimeoutError:
            logger.warning("Run %s: its last events wait for Redis", claim.run_id)
        if execution.is_context_needed:
            await _tend_context(claim.session_id)
        if execution.aftermath:
            await self._tell_untold(claim.session_id, execution.aftermath)
        if execution.aftermath or execution.is_parked:
            await _leave(claim.run_id, claim.session_id)

    async def _tell_untold(self, session_id: uuid.UUID, aftermath: Aftermath) -> None:
        """The session is free: tell of runs that were cancelled while they waited."""
        if aftermath.has_untold_runs and (told := await _tell_without_worker(session_id=session_id)):
            stream = self._writer.open(session_id, told.epoch)
            for event in told.events:
                stream.emit(event.type, event.data)

    async def _drain(self) -> None:
        for execution, _ in self._active.values():
            execution.is_leaving = True
        if self._active:
            logger.info("Handing over %d runs", len(self._active))
            tasks = [task for _, task in self._active.values()]
            await asyncio.wait(tasks, timeout=settings.DRAIN_SECONDS)
        for execution, task in self._active.values():
            if not execution.is_finishing:
                execution.is_interrupted = True
                task.cancel()

    # --- leases, cancels, steering -----------------------------------------------------------------------------------

    async def _renew_forever(self) -> None:
        """Renew the leases of all runs, and see what people want of them, should a hint have been lost."""
        while True:
            await asyncio.sleep(settings.RUN_LEASE_SECONDS / 3)
            try:
                await self._renew()
            except DATABASE_DOWN as error:
                logger.warning("The leases are not renewed, trying again: %s", _first_line(error))
            except Exception:
                logger.exception("The leases are not renewed, trying again")

    async def _renew_slots_forever(self) -> None:
        """Renew the runs' slots, in a task of its own: a Redis that hangs costs no lease. Also without runs, so that
        after a flush the slots are there again before the next one comes."""
        while True:
            try:
                await _renew_slots(dict(self._lanes))
            except (RedisError, OSError, *DATABASE_DOWN) as error:
                logger.warning("The slots are not renewed, trying again: %s", _first_line(error))
            except Exception:
                logger.exception("The slots are not renewed, trying again")
            await asyncio.sleep(settings.RUN_LEASE_SECONDS / 3)

    async def _renew(self) -> None:
        held = dict(self._active)
        if not held:
            return
        lease_until = time.monotonic() + settings.RUN_LEASE_SECONDS
        claims = [execution.claim for execution, _ in held.values()]
        renewed = {run.run_id: run for run in await _renew_leases(claims=claims)}
        for session_id, (execution, _) in held.items():
            run = renewed.get(execution.claim.run_id)
            if run is None:
                execution.lose_lease()
                continue
            execution.renew_lease(lease_until)
            execution.is_steered = execution.is_steered or run.is_steered
            if run.is_cancel_requested:
                await self._attend(session_id)

    async def _listen(self) -> None:
        """Take the hints that somebody wants something of a run of ours; many may come at once."""
        following: set[asyncio.Task[None]] = set()
        while True:
            try:
                hint = await self._layer.receive(self._channel)
            except Exception as error:
                logger.warning("No hints are heard now, renewals look for what is wanted: %s", _first_line(error))
                await asyncio.sleep(1.0)
                continue
            task = asyncio.create_task(self._follow(hint), name="hint")
            following.add(task)
            task.add_done_callback(following.discard)

    async def _follow(self, hint: dict[str, Any]) -> None:
        try:
            if hint["type"] == "prepare":
                endpoint, draft = await _prepare(uuid.UUID(hint["session_id"]), hint.get("draft", ""))
                await asyncio.gather(warm_up_endpoints([endpoint] if endpoint else []), embed_query(draft))
                return
            await self._attend(uuid.UUID(hint["session_id"]), is_steered=hint["type"] == "steer")
        except DATABASE_DOWN as error:
            logger.warning("A hint was not followed; the next renewal looks again: %s", _first_line(error))
        except Exception:
            logger.exception("A hint was not understood; the next renewal looks again")

    async def _attend(self, session_id: uuid.UUID, *, is_steered: bool = False) -> None:
        execution, task = self._active.get(session_id, (None, None))
        if execution is None or task is None or execution.is_finishing:
            return
        if is_steered:
            execution.is_steered = True
            return
        if pairs := await _untold_runs(session_id):
            await execution.tell_of_cancelled(pairs)
        renewed = await _renew_leases(claims=[execution.claim])
        if any(run.is_cancel_requested for run in renewed) and not execution.is_finishing:
            execution.is_cancel_requested = True
            task.cancel()

    async def _keep_warm(self) -> None:
        """While nothing runs: keep the connections to models and MCP servers open, and stay in the workers' group."""
        while True:
            try:
                await self._layer.group_add(WORKERS, self._channel)
                await mcp_pool().refresh()
                if not self._active:
                    await warm_up_endpoints(await _endpoints_in_use())
            except Exception as error:
                logger.warning("Not warmed up, trying again: %s", _first_line(error))
            await asyncio.sleep(settings.WARM_UP_SECONDS)

    async def _beat(self) -> None:
        """Say to whoever watches the site that this worker lives."""
        while True:
            try:
                await beat(client(), self._channel, queues_of_worker(settings.WORKER_CAPABILITIES))
                await speculation.flush(client())
            except Exception as error:
                logger.warning("The heartbeat failed: %s", error)
            await asyncio.sleep(HEARTBEAT_SECONDS)


def _read_together(claims: Sequence[claiming.Claim]) -> dict[uuid.UUID, Newest]:
    """The conversations of a burst in one go. What goes wrong with that is seen when each is read by itself."""
    try:
        return read_newest(claims) if len(claims) > 1 else {}
    except Exception as error:
        mend_pool()
        logger.warning("Conversations are read one by one: %s", _first_line(error))
        return {}


def _read_work(claim: claiming.Claim, newest: Newest | None) -> Work | None:
    """What one cannot be begun with is no other's business: its lease runs out, and the sweeper sees to it."""
    try:
        return Work(claim, newest)
    except StaleEpochError:
        return None
    except DATABASE_DOWN as error:
        mend_pool()
        logger.warning("Run %s is not begun, its lease will run out: %s", claim.run_id, _first_line(error))
    except Exception:
        logger.exception("Run %s cannot be begun, its lease will run out", claim.run_id)
    return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


@cache
def host() -> WorkerHost:
    """This process's host; made when the first run comes or when the worker starts."""
    return WorkerHost()

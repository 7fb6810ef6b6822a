"""The worker process: one asyncio loop on which all its runs execute, whatever thread Celery calls from."""

import asyncio
import logging
import re
import socket
import threading
import time
import uuid
from concurrent.futures import Future
from functools import cache
from typing import Any

import uvloop
from channels.layers import get_channel_layer
from django.db import close_old_connections

from chat.runs.dispatch import dispatch
from chat.runs.execute import Execution, Work
from chat.stream.redis import client
from chat.stream.writer import StreamWriter
from monitoring.workers import HEARTBEAT_KEY, HEARTBEAT_SECONDS
from sessions_app.services import cancelling
from sessions_app.services.recording import Aftermath
from sessions_app.services.runs import claim_run
from sessions_app.services.telling import record_told
from sessions_app.threads import in_database_thread
from sessions_app.token_counting import count_tokens

logger = logging.getLogger(__name__)

_HOST = re.sub(r"[^a-zA-Z0-9.-]", "-", socket.gethostname())[:30]  # what a channel's name may hold
FLUSH_TIMEOUT_SECONDS = 1.0

_untold_runs = in_database_thread(cancelling.untold_runs)
_tell_without_worker = in_database_thread(cancelling.tell_without_worker)
_record_told = in_database_thread(record_told)
_dispatch = in_database_thread(dispatch)
_cancel_requested_among = in_database_thread(cancelling.cancel_requested_among)


class WorkerHost:
    """Runs what Celery hands over, and listens for cancels. One per process."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._active: dict[uuid.UUID, tuple[Execution, asyncio.Task[None]]] = {}  # by session
        self._channel = ""
        count_tokens("warm up")  # loads the encoding before the first run needs it
        threading.Thread(target=self._loop.run_forever, name="runs", daemon=True).start()
        self._submit(self._start()).result()

    def run(self, run_id: uuid.UUID) -> None:
        """Claim a run and see it to its end; returns at once if it is not to be had."""
        try:
            claim = claim_run(run_id=run_id, worker=self._channel)
            work = Work(claim) if claim else None
        finally:
            close_old_connections()  # this thread waits now; its connection serves others meanwhile
        if work is not None:
            self._submit(self._execute(work)).result()

    def _submit(self, coroutine: Any) -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _start(self) -> None:
        self._writer = StreamWriter(client())
        self._writer.start()
        self._layer = get_channel_layer()
        self._channel = await self._layer.new_channel(f"worker.{_HOST}")
        self._tasks = [
            asyncio.create_task(self._listen(), name="cancel-listener"),
            asyncio.create_task(self._beat(), name="heartbeat"),
        ]

    async def _execute(self, work: Work) -> None:
        claim = work.claim
        stream = self._writer.open(claim.session_id, claim.epoch)
        execution = Execution(work, stream)
        task = asyncio.create_task(execution.execute(), name=f"run-{claim.run_id}")
        stream.on_fenced = task.cancel
        self._active[claim.session_id] = (execution, task)
        try:
            await asyncio.gather(task, return_exceptions=True)
        finally:
            del self._active[claim.session_id]
        try:
            # The next run of the session writes under a higher epoch, which would shut this stream.
            await asyncio.wait_for(stream.is_flushed.wait(), FLUSH_TIMEOUT_SECONDS)
        except TimeoutError:
            logger.warning("Run %s: its last events wait for Redis", claim.run_id)
        if execution.aftermath:
            await self._clear_up(claim.session_id, execution.aftermath)

    async def _clear_up(self, session_id: uuid.UUID, aftermath: Aftermath) -> None:
        """The session is free: tell of runs that were cancelled while they waited, and let the next one go."""
        if aftermath.has_untold_runs and (told := await _tell_without_worker(session_id=session_id)):
            stream = self._writer.open(session_id, told.epoch)
            for event in told.events:
                stream.emit(event.type, event.data)
        if aftermath.next_run:
            await _dispatch(aftermath.next_run)

    # --- cancel ----------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Take the hints that something in a session of ours is to stop."""
        while True:
            try:
                hint = await self._layer.receive(self._channel)
                await self._stop_what_is_cancelled(uuid.UUID(hint["session_id"]))
            except Exception:
                logger.exception("A cancel hint was not understood; the next heartbeat looks again")
                await asyncio.sleep(1.0)

    async def _stop_what_is_cancelled(self, session_id: uuid.UUID) -> None:
        execution, task = self._active.get(session_id, (None, None))
        if execution is None or task is None or execution.is_finishing:
            return
        pairs = await _untold_runs(session_id)
        if pairs and not execution.is_finishing:
            events = execution.tell_of_cancelled(pairs)
            await _record_told(session_id=session_id, epoch=execution.claim.epoch, events=events)
        if await _cancel_requested_among([execution.claim.run_id]) and not execution.is_finishing:
            execution.is_cancel_requested = True
            task.cancel()

    async def _beat(self) -> None:
        """Say that this worker lives; look for cancels whose hint was lost."""
        while True:
            try:
                await client().zadd(HEARTBEAT_KEY, {self._channel: time.time()})
                await client().zremrangebyscore(HEARTBEAT_KEY, 0, time.time() - 12 * HEARTBEAT_SECONDS)
                by_run = {execution.claim.run_id: session for session, (execution, _) in self._active.items()}
                for run_id in await _cancel_requested_among(list(by_run)) if by_run else []:
                    await self._stop_what_is_cancelled(by_run[run_id])
            except Exception as error:
                logger.warning("The heartbeat failed: %s", error)
            await asyncio.sleep(HEARTBEAT_SECONDS)


@cache
def host() -> WorkerHost:
    """This process's host; made when the first run comes or when the worker starts."""
    return WorkerHost()

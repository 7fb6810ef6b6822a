"""Runs of this process on their way to the broker: those of a burst share messages.

A message costs the gateway about as much as writing the turn, and the worker as much as claiming it. So the first one
leaves at once, and what comes within the next milliseconds goes together with the next.
"""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

GATHER_SECONDS = 0.01  # from one message to the next
MAX_RUNS = 16  # in one message, so that several workers share a burst

Send = Callable[[str, Sequence[uuid.UUID]], None]
"""Gives a queue its runs; must not raise."""


class Outbox:
    """For several threads. What was added is sent, also if the process is about to end; it waits for GATHER_SECONDS at
    most, and not at all if nothing was sent so long."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._waiting: dict[str, list[uuid.UUID]] = {}
        self._is_sending = False  # or about to
        self._next_at = float("-inf")
        # Its thread starts with the first run that waits, and is waited for when the interpreter ends.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")

    def add(self, queue: str, run_id: uuid.UUID) -> None:
        """A run that finds nothing else under way goes from the calling thread: a change of threads would cost it half
        a millisecond. Others do not wait for theirs."""
        with self._lock:
            self._waiting.setdefault(queue, []).append(run_id)
            is_sending, self._is_sending = self._is_sending, True
        if is_sending:
            return
        if time.monotonic() < self._next_at or self._send_what_waits():
            self._thread.submit(self._send_all)

    def _send_all(self) -> None:
        is_more = True
        while is_more:
            time.sleep(max(0.0, self._next_at - time.monotonic()))
            is_more = self._send_what_waits()

    def _send_what_waits(self) -> bool:
        """Whether more has come meanwhile; the caller then goes on."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        self._next_at = time.monotonic() + GATHER_SECONDS
        for queue, run_ids in waiting.items():
            for start in range(0, len(run_ids), MAX_RUNS):
                self._send(queue, run_ids[start : start + MAX_RUNS])
        with self._lock:
            self._is_sending = bool(self._waiting)
            return self._is_sending

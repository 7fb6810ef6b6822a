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
        self._is_awake = False
        self._next_at = float("-inf")
        # Its thread starts with the first run, and is waited for when the interpreter ends.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")

    def add(self, queue: str, run_id: uuid.UUID) -> None:
        with self._lock:
            self._waiting.setdefault(queue, []).append(run_id)
            is_awake, self._is_awake = self._is_awake, True
        if not is_awake:
            self._thread.submit(self._send_what_waits)

    def _send_what_waits(self) -> None:
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            self._is_awake = False
        self._next_at = time.monotonic() + GATHER_SECONDS
        for queue, run_ids in waiting.items():
            for start in range(0, len(run_ids), MAX_RUNS):
                self._send(queue, run_ids[start : start + MAX_RUNS])

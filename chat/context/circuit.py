"""A circuit breaker: what fails is left alone for a while, longer each time."""

import time
from threading import Lock

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 600.0


class Circuit:
    """Of one service in one process; for several threads."""

    def __init__(self) -> None:
        self._failures = 0
        self._closed_at = 0.0
        self._lock = Lock()

    @property
    def is_open(self) -> bool:
        """Whether the service is not to be asked now."""
        return time.monotonic() < self._closed_at

    def succeeded(self) -> None:
        with self._lock:
            self._failures, self._closed_at = 0, 0.0

    def failed(self) -> None:
        with self._lock:
            pause = min(FIRST_SECONDS * 2**self._failures, LONGEST_SECONDS)
            self._failures += 1
            self._closed_at = time.monotonic() + pause

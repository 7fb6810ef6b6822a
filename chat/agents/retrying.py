"""Whether and when a model that gave nothing is asked again."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from chat.agents.base import ModelError

RETRIED_STATUSES = frozenset({408, 409, 425, 429, *range(500, 600)})
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0
LONGEST_RETRY_AFTER_SECONDS = 60.0  # who wants us to wait longer is as good as down: a fallback is faster


class UnavailableError(ModelError):
    """The model's server gave nothing.

    `is_final`: asking it again would not help. `retry_after`: seconds that it wants us to wait, if it said so.
    """

    def __init__(self, message: str = "", *, is_final: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.is_final = is_final
        self.retry_after = retry_after


def pause_before_retry(attempt: int, error: UnavailableError, random: Callable[[], float]) -> float | None:
    """Seconds to wait after the failed `attempt` (from 0), None if it is not to be tried again.

    Twice as long each time at most, by chance less, so that a crowd does not come back all at once.
    """
    if error.is_final:
        return None
    if error.retry_after is not None:
        return error.retry_after if error.retry_after <= LONGEST_RETRY_AFTER_SECONDS else None
    return min(FIRST_PAUSE_SECONDS * 2.0**attempt, LONGEST_PAUSE_SECONDS) * (0.5 + 0.5 * random())


def read_retry_after(value: str) -> float | None:
    """Seconds of a Retry-After header: a number or a date; None if it is neither."""
    seconds: float | None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _until(value)
    return None if seconds is None else max(seconds, 0.0)


def _until(date: str) -> float | None:
    try:
        seconds: float = (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return seconds

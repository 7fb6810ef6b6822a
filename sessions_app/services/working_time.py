"""How long a session's runs may be at work in all. Waiting does not count: for a worker, a place, a person, a budget.

The record counts each attempt, from its claim to its end, by the database's clock: where a run ends, is parked, given
back (recording.py, claiming.py) or taken from a lost worker (recovering.py).
"""

from django.conf import settings
from django.db.models import QuerySet

from sessions_app.errors import SessionTimeoutError
from sessions_app.models import AgentSession


def seconds_left(worked_ms: int) -> float | None:
    """What remains of MAX_SESSION_DURATION_SECONDS, 0 at least; None: there is no limit."""
    limit = settings.MAX_SESSION_DURATION_SECONDS
    return max(0.0, limit - worked_ms / 1_000) if limit else None


def check_time_left(worked_ms: int) -> None:
    """Raises SessionTimeoutError if nothing remains."""
    if seconds_left(worked_ms) == 0:
        raise SessionTimeoutError()


def reset_working_time(*, sessions: QuerySet[AgentSession]) -> None:
    """Let them work as long as new ones."""
    sessions.update(worked_ms=0)

"""Admission: whether a message may start a turn now."""

from typing import Any

from redis.exceptions import RedisError

from sessions_app.errors import UnavailableError
from sessions_app.redis import check_answers

RETRY_AFTER_SECONDS = 5


def admit(*, user: Any, session_id: Any) -> None:
    """Let a turn begin; called before anything of it is written. The queue's bound is not here, but in the turn's own
    transaction (sessions_app/services/accepting.py).

    Raises UnavailableError while Redis is down: the turn could be written, but nobody could watch it.
    """
    try:
        check_answers()
    except (RedisError, OSError):
        raise UnavailableError(retry_after_seconds=RETRY_AFTER_SECONDS) from None

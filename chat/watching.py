"""Where a client begins to watch a session."""

import uuid
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from chat.stream.redis import newest_in_stream
from sessions_app import queries
from sessions_app.access import get_session
from sessions_app.cursor import Cursor, end_of
from sessions_app.errors import InvalidCursorError


@dataclass(frozen=True)
class Watching:
    """Events come behind `after`."""

    session_id: uuid.UUID
    after: Cursor


def watch_session(*, user: Any, session_id: Any, after: str = "") -> Watching:
    """Check the caller and the cursor; without one, begin with the run in progress or with what comes next.

    Raises SessionNotFoundError, InvalidCursorError (also for a cursor from the future).
    """
    session = get_session(user, session_id)
    if after:
        cursor = Cursor.parse(after)
        if cursor.epoch > session.epoch or _is_ahead(session.pk, cursor):
            raise InvalidCursorError("This cursor is not of this session: nothing has come so far.")
        return Watching(session.pk, cursor)
    return Watching(session.pk, queries.start_of_active_run(session.pk) or end_of(session.epoch))


def _is_ahead(session_id: uuid.UUID, cursor: Cursor) -> bool:
    """Whether the cursor lies behind the last event of its epoch, so that it cannot have come from here.

    Where Redis cannot say (it is down, or it has lost the stream), the caller is believed.
    """
    if cursor.seq == 0 or queries.is_up_to(session_id, cursor):
        return False
    ended = queries.end_of_epoch(session_id, cursor.epoch)
    if ended is not None:
        return cursor > ended
    try:
        newest = newest_in_stream(session_id)
    except (RedisError, OSError):
        return False
    return newest is not None and newest.epoch == cursor.epoch and cursor > newest


@dataclass(frozen=True)
class ResumedRun:
    """The rest of a run comes behind `after`."""

    session_id: uuid.UUID
    run_id: str
    after: Cursor


def resume_run(*, user: Any, session_id: Any, last_event_id: str) -> ResumedRun | None:
    """Find the run that an event was of; None if that event was its last.

    Raises SessionNotFoundError, InvalidCursorError.
    """
    watching = watch_session(user=user, session_id=session_id, after=last_event_id)
    run = queries.run_of_epoch(watching.session_id, watching.after.epoch)
    if run is None or (run.terminal_cursor and Cursor.parse(run.terminal_cursor) <= watching.after):
        return None
    return ResumedRun(watching.session_id, str(run.pk), watching.after)

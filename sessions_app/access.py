"""Who may reach what: only the owner reaches a session, and a foreign one looks like none at all."""

import uuid
from typing import Any

from sessions_app.errors import RunNotFoundError, SessionExpiredError, SessionNotFoundError
from sessions_app.models import AgentSession, Run


def as_uuid(text: Any) -> uuid.UUID | None:
    try:
        return text if isinstance(text, uuid.UUID) else uuid.UUID(str(text))
    except ValueError:
        return None


def get_session(user: Any, session_id: Any, *, lock: bool = False) -> AgentSession:
    """The caller's session, with its agent type; `lock` takes the row FOR UPDATE (inside a transaction).

    Raises SessionNotFoundError, also for a foreign or deleted one and for what is not a UUID.
    """
    sessions = AgentSession.objects.select_related("agent_type").filter(deleted_at=None, owner_id=user.pk)
    if lock:
        sessions = sessions.select_for_update(of=("self",))
    key = as_uuid(session_id)
    session = sessions.filter(pk=key).first() if key else None
    if session is None:
        raise SessionNotFoundError()
    return session


def get_live_session(user: Any, session_id: Any, *, lock: bool = False) -> AgentSession:
    """The caller's session if it has not expired; raises SessionNotFoundError, SessionExpiredError."""
    session = get_session(user, session_id, lock=lock)
    if session.is_expired():
        raise SessionExpiredError()
    return session


def get_run(user: Any, run_id: Any) -> Run:
    """The caller's run; raises RunNotFoundError."""
    key = as_uuid(run_id)
    runs = Run.objects.select_related("session").filter(session__owner_id=user.pk, session__deleted_at=None)
    run = runs.filter(pk=key).first() if key else None
    if run is None:
        raise RunNotFoundError()
    return run

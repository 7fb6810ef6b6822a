"""What one does with a session besides talking in it."""

from datetime import timedelta
from typing import Any

import orjson
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from sessions_app.errors import AgentUnavailableError, StateTooLargeError, UnknownAgentTypeError
from sessions_app.models import AgentSession, AgentType, Run
from sessions_app.models.run import ACTIVE_STATUSES


def create_session(
    *,
    owner: Any,
    agent_type: str = "",
    title: str = "",
    initial_context: dict[str, Any] | None = None,
    ttl_seconds: int | None = None,
) -> AgentSession:
    """Open a session; raises UnknownAgentTypeError, AgentUnavailableError."""
    name = agent_type or settings.DEFAULT_AGENT_TYPE
    found = AgentType.objects.filter(name=name).first()
    if found is None:
        raise UnknownAgentTypeError(f"There is no agent type {name!r}.")
    if not found.is_enabled:
        raise AgentUnavailableError(f"The agent type {name!r} is switched off.")
    ttl = ttl_seconds or settings.SESSION_TTL_SECONDS
    now = timezone.now()
    return AgentSession.objects.create(
        owner=owner,
        agent_type=found,
        title=title,
        state=initial_context or {},
        ttl_seconds=ttl,
        last_active=now,
        expires_at=now + timedelta(seconds=ttl),
    )


def update_session(
    *,
    session: AgentSession,
    title: str | None = None,
    ttl_seconds: int | None = None,
    state: dict[str, Any] | None = None,
) -> AgentSession:
    """Change what is given; a new time to live counts from now."""
    fields = []
    if title is not None:
        session.title = title
        fields.append("title")
    if state is not None:
        session.state = state
        fields.append("state")
    if ttl_seconds is not None:
        session.ttl_seconds = ttl_seconds
        session.expires_at = timezone.now() + timedelta(seconds=ttl_seconds)
        fields += ["ttl_seconds", "expires_at"]
    if fields:
        session.save(update_fields=fields)
    return session


def extend_session(*, session: AgentSession, extra_seconds: int) -> AgentSession:
    """Move the end of a session away; an expired one counts from now."""
    limit = timezone.now() + timedelta(seconds=settings.SESSION_MAX_TTL_SECONDS)
    start = max(session.expires_at, timezone.now())
    session.expires_at = min(start + timedelta(seconds=extra_seconds), limit)
    session.save(update_fields=["expires_at"])
    return session


@transaction.atomic
def patch_state(*, session: AgentSession, changes: dict[str, Any]) -> dict[str, Any]:
    """Merge changes into the state document as RFC 7396 says: null removes a key, objects merge.

    Raises StateTooLargeError, and then nothing is changed.
    """
    locked = AgentSession.objects.select_for_update().get(pk=session.pk)
    return _save_state(locked, _merged(locked.state, changes))


@transaction.atomic
def append_note(*, session: AgentSession, text: str) -> dict[str, Any]:
    """Add a text to the list `notes` of the state document; raises StateTooLargeError."""
    locked = AgentSession.objects.select_for_update().get(pk=session.pk)
    known = locked.state.get("notes")
    notes = [*(known if isinstance(known, list) else []), text]
    return _save_state(locked, {**locked.state, "notes": notes})


def _save_state(locked: AgentSession, state: dict[str, Any]) -> dict[str, Any]:
    locked.state = state
    if len(orjson.dumps(locked.state)) > settings.MAX_STATE_BYTES:
        raise StateTooLargeError(f"A state document has at most {settings.MAX_STATE_BYTES} bytes.")
    locked.save(update_fields=["state"])
    return dict(locked.state)


def _merged(target: Any, changes: Any) -> Any:
    if not isinstance(changes, dict):
        return changes
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def delete_session(*, session: AgentSession) -> None:
    """Hide the session at once; its rows are purged when nothing runs in it any more."""
    AgentSession.objects.filter(pk=session.pk, deleted_at=None).update(deleted_at=timezone.now())


def delete_expired_sessions() -> int:
    """Delete what expired EXPIRED_SESSION_DAYS ago: until then its owner can read it and extend it."""
    limit = timezone.now() - timedelta(days=settings.EXPIRED_SESSION_DAYS)
    return AgentSession.objects.filter(deleted_at=None, expires_at__lt=limit).update(deleted_at=timezone.now())


def purge_deleted_sessions(*, limit: int = 100) -> list[str]:
    """Remove the rows of deleted sessions in which nothing runs; returns their ids."""
    active = Run.objects.filter(status__in=ACTIVE_STATUSES).values("session_id")
    doomed = AgentSession.objects.exclude(deleted_at=None).exclude(pk__in=active)
    ids = list(doomed.values_list("pk", flat=True)[:limit])
    AgentSession.objects.filter(pk__in=ids).delete()
    return [str(pk) for pk in ids]

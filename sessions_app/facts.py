"""The data of those events that more than one place tells: one shape for the worker, the tail and the API."""

import uuid
from typing import Any

from sessions_app.models import Message, Role, Run, RunStatus

TERMINAL_TYPES = frozenset({"done", "error", "cancelled"})


def message(message_id: int, run_id: uuid.UUID, content: str) -> dict[str, Any]:
    """The user's own message, first event of its run."""
    return {"message_id": message_id, "run_id": str(run_id), "role": Role.USER.value, "content": content}


def cancelled(run_id: uuid.UUID, usage: dict[str, int] | None = None) -> dict[str, Any]:
    return {"run_id": str(run_id), "status": RunStatus.CANCELLED.value, "usage": usage or {}}


def failed(run_id: uuid.UUID, code: str, message: str, usage: dict[str, int] | None = None) -> dict[str, Any]:
    return {
        "run_id": str(run_id),
        "status": RunStatus.FAILED.value,
        "code": code,
        "message": message,
        "usage": usage or {},
    }


def cancelled_run(run: Run, entry: Message) -> list[tuple[str, dict[str, Any], uuid.UUID]]:
    """(type, data, run) of the two events of a run that was cancelled while it waited."""
    return [
        ("message", message(entry.pk, run.pk, entry.content), run.pk),
        ("cancelled", cancelled(run.pk), run.pk),
    ]

"""Admission: whether a turn may begin. Everything that limits turns decides here, before anything is written."""

from typing import Any


def admit(*, user: Any, session_id: Any) -> None:
    """Called for every turn, by every way in; refuses by raising an AgentsiteError.

    No limit is configured yet besides the session's own queue, which is settled under its lock
    (sessions_app/services/runs.py).
    """

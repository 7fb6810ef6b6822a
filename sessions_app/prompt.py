"""What a worker reads to begin a run: the newest messages that fit.

On the way to the first token, so in SQL (docs/decisions/0003-sql-on-the-hot-path.md).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import orjson
from django.db import connection

_PAGE = 50  # messages read at a time while a prompt is filled


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """A message as a model needs it."""

    id: int
    turn: int
    position: int
    role: str
    content: str
    tool_calls: Sequence[dict[str, Any]]
    tool_call_id: str
    token_count: int
    created_at: datetime
    is_pinned: bool = False


PROMPT_COLUMNS = tuple(each.name for each in fields(PromptMessage))


@dataclass(frozen=True)
class Newest:
    """The newest messages that fit, oldest first. `is_all`: nothing is older."""

    messages: list[PromptMessage]
    is_all: bool


def newest_messages(session_id: uuid.UUID, *, turn: int, max_tokens: int, first_turn: int = 0) -> Newest:
    """The newest messages up to a turn whose stored token counts fit; that turn's own always.

    Reads no more than that: the time depends on the budget, not on the length of the history.
    """
    chosen: list[PromptMessage] = []
    used = 0
    while True:
        page = _page(session_id, first_turn, turn, before=chosen[-1] if chosen else None)
        for message in page:
            used += message.token_count
            if used > max_tokens and message.turn != turn:
                return Newest(chosen[::-1], is_all=False)
            chosen.append(message)
        if len(page) < _PAGE:
            return Newest(chosen[::-1], is_all=True)


_COLUMNS = ", ".join(PROMPT_COLUMNS)
_NEWEST = f"""
SELECT {_COLUMNS} FROM sessions_app_message
WHERE session_id = %s AND turn >= %s AND (turn, position) < (%s, %s)
ORDER BY turn DESC, position DESC LIMIT %s
"""  # noqa: S608 (the columns are our own)


def _page(session_id: uuid.UUID, first_turn: int, turn: int, *, before: PromptMessage | None) -> list[PromptMessage]:
    place = (before.turn, before.position) if before else (turn + 1, 0)
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST, [session_id, first_turn, *place, _PAGE])
        return as_prompt_messages(cursor.fetchall())


def as_prompt_messages(rows: Sequence[Sequence[Any]]) -> list[PromptMessage]:
    """Rows of PROMPT_COLUMNS as the driver gives them: JSON is text still."""
    return [
        PromptMessage(pk, turn, position, role, content, orjson.loads(calls), call_id, tokens, created_at, is_pinned)
        for pk, turn, position, role, content, calls, call_id, tokens, created_at, is_pinned in rows
    ]

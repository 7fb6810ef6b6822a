"""What a worker reads to begin a run: the newest messages that fit.

On the way to the first token, so in SQL (docs/decisions/0003-sql-on-the-hot-path.md).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
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


def prompt_messages(session_id: uuid.UUID, *, turn: int, max_tokens: int, first_turn: int = 0) -> list[PromptMessage]:
    """The newest messages up to a turn whose stored token counts fit, oldest first; that turn's own always.

    Reads no more than that: the time depends on the budget, not on the length of the history.
    """
    chosen: list[PromptMessage] = []
    used = 0
    while True:
        page = _newest(session_id, first_turn, turn, offset=len(chosen))
        for message in page:
            used += message.token_count
            if used > max_tokens and message.turn != turn:
                return chosen[::-1]
            chosen.append(message)
        if len(page) < _PAGE:
            return chosen[::-1]


def _newest(session_id: uuid.UUID, first_turn: int, turn: int, *, offset: int) -> list[PromptMessage]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, turn, position, role, content, tool_calls, tool_call_id, token_count, created_at
            FROM sessions_app_message WHERE session_id = %s AND turn BETWEEN %s AND %s
            ORDER BY turn DESC, position DESC LIMIT %s OFFSET %s
            """,
            [session_id, first_turn, turn, _PAGE, offset],
        )
        rows = cursor.fetchall()
    return [
        PromptMessage(pk, turn_, position, role, content, orjson.loads(calls), call_id, tokens, created_at)
        for pk, turn_, position, role, content, calls, call_id, tokens, created_at in rows
    ]

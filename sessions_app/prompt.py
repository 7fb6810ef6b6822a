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


@dataclass(frozen=True)
class Wanted:
    """The newest messages of a session, from `first_turn` up to `turn`, whose stored token counts fit `max_tokens`;
    that turn's own always."""

    session_id: uuid.UUID
    turn: int
    max_tokens: int
    first_turn: int = 0


def newest_messages(session_id: uuid.UUID, *, turn: int, max_tokens: int, first_turn: int = 0) -> Newest:
    """Reads no more than is Wanted: the time depends on the budget, not on the length of the history."""
    reading = _Reading(Wanted(session_id, turn, max_tokens, first_turn))
    while reading.newest is None:
        reading.take(_pages([reading])[0])
    return reading.newest


def newest_of_short(wanted: Sequence[Wanted]) -> list[Newest | None]:
    """Of several sessions in one statement; None where a page is not enough."""
    readings = [_Reading(each) for each in wanted]
    for reading, page in zip(readings, _pages(readings) if readings else [], strict=True):
        reading.take(page)
    return [reading.newest for reading in readings]


class _Reading:
    """How far one of them has come; `newest` when it is done."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.newest: Newest | None = None
        self._chosen: list[PromptMessage] = []
        self._used = 0

    @property
    def place(self) -> tuple[int, int]:
        """Turn and position before which it goes on."""
        last = self._chosen[-1] if self._chosen else None
        return (last.turn, last.position) if last else (self.wanted.turn + 1, 0)

    def take(self, page: Sequence[PromptMessage]) -> None:
        for message in page:
            self._used += message.token_count
            if self._used > self.wanted.max_tokens and message.turn != self.wanted.turn:
                self.newest = Newest(self._chosen[::-1], is_all=False)
                return
            self._chosen.append(message)
        if len(page) < _PAGE:
            self.newest = Newest(self._chosen[::-1], is_all=True)


_COLUMNS = ", ".join(PROMPT_COLUMNS)
# As subqueries the lists have no length that Postgres could see: else it would plan this anew for each.
_NEWEST = f"""
SELECT {_COLUMNS}, number
FROM unnest((SELECT %s::uuid[]), (SELECT %s::integer[]), (SELECT %s::integer[]), (SELECT %s::integer[])) WITH ORDINALITY
    AS wanted(session_id, first_turn, before_turn, before_position, number)
CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM sessions_app_message m
    WHERE m.session_id = wanted.session_id AND m.turn >= wanted.first_turn
        AND (m.turn, m.position) < (wanted.before_turn, wanted.before_position)
    ORDER BY m.turn DESC, m.position DESC LIMIT {_PAGE}
) newest
ORDER BY number, turn DESC, position DESC
"""  # noqa: S608 (the columns are our own)


def _pages(readings: Sequence[_Reading]) -> list[list[PromptMessage]]:
    sessions = [reading.wanted.session_id for reading in readings]
    first_turns = [reading.wanted.first_turn for reading in readings]
    turns, positions = zip(*(reading.place for reading in readings), strict=True)
    pages: list[list[PromptMessage]] = [[] for _ in readings]
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST, [sessions, first_turns, list(turns), list(positions)])
        for *columns, number in cursor.fetchall():
            pages[number - 1] += as_prompt_messages([columns])
    return pages


def as_prompt_messages(rows: Sequence[Sequence[Any]]) -> list[PromptMessage]:
    """Rows of PROMPT_COLUMNS as the driver gives them: JSON is text still."""
    return [
        PromptMessage(pk, turn, position, role, content, orjson.loads(calls), call_id, tokens, created_at, is_pinned)
        for pk, turn, position, role, content, calls, call_id, tokens, created_at, is_pinned in rows
    ]

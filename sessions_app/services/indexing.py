"""The index of a session's messages: what the search reads. Written in the background, behind the conversation."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from sessions_app.memory import Entry, entries_at
from sessions_app.models import IndexEntry
from sessions_app.models.run import ACTIVE_STATUSES
from sessions_app.prompt import PROMPT_COLUMNS, PromptMessage, as_prompt_messages
from sessions_app.search_text import searchable


@dataclass(frozen=True)
class NewEntry:
    """One entry of the index: the messages from `message` to `last_position`."""

    message: PromptMessage
    last_position: int
    text: str
    importance: float
    embedding: Sequence[float] | None
    embedding_model: str


@dataclass(frozen=True)
class Unindexed:
    """The oldest messages behind the index, in finished turns, and the entry before them."""

    messages: list[PromptMessage]
    before: Entry | None
    next_ordinal: int


_UNINDEXED = f"""
SELECT {", ".join(PROMPT_COLUMNS)} FROM sessions_app_message m
WHERE session_id = %(session_id)s AND (turn, position) > (%(turn)s, %(position)s) AND turn < COALESCE((
    SELECT min(r.turn) FROM sessions_app_run r WHERE r.session_id = %(session_id)s AND r.status = ANY(%(active)s)
), 2147483647)
ORDER BY turn, position LIMIT %(limit)s
"""  # noqa: S608 (the columns are our own)


def unindexed(session_id: uuid.UUID, *, limit: int) -> Unindexed:
    """Reads at most `limit` messages."""
    last = IndexEntry.objects.filter(session_id=session_id).order_by("-ordinal").first()
    values: dict[str, Any] = {
        "session_id": session_id,
        "turn": last.turn if last else 0,
        "position": last.last_position if last else -1,
        "active": [status.value for status in ACTIVE_STATUSES],
        "limit": limit,
    }
    with connection.cursor() as cursor:
        cursor.execute(_UNINDEXED, values)
        messages = as_prompt_messages(cursor.fetchall())
    before = entries_at(session_id, [last.ordinal], turn=2**31 - 1) if last else []
    return Unindexed(messages, before[0] if before else None, last.ordinal + 1 if last else 1)


_ADD = """
INSERT INTO sessions_app_indexentry (
    message_id, session_id, ordinal, turn, position, last_position, lexemes, word_count, embedding, embedding_model,
    importance)
SELECT m.id, m.session_id, %(ordinal)s, m.turn, m.position, %(last_position)s, found.lexemes, length(found.lexemes),
    %(embedding)s::halfvec, %(embedding_model)s, %(importance)s
FROM sessions_app_message m, strip(to_tsvector(%(language)s::regconfig, %(text)s)) AS found(lexemes)
WHERE m.id = %(message_id)s AND m.turn = %(turn)s
ON CONFLICT DO NOTHING
"""


def add_entries(entries: Sequence[NewEntry], *, first_ordinal: int) -> None:
    """Add them behind the last one; what somebody else has added meanwhile is left as it is."""
    rows: list[dict[str, Any]] = [
        {
            "message_id": entry.message.id,
            "turn": entry.message.turn,  # a turn that is tried again has moved on
            "ordinal": ordinal,
            "last_position": entry.last_position,
            "text": searchable(entry.text),
            "language": settings.SEARCH_LANGUAGE,
            "embedding": as_vector(entry.embedding),
            "embedding_model": entry.embedding_model,
            "importance": entry.importance,
        }
        for ordinal, entry in enumerate(entries, first_ordinal)
    ]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(_ADD, rows)


def as_vector(values: Sequence[float] | None) -> str | None:
    """As pgvector reads it."""
    if values is None:
        return None
    return "[" + ",".join(f"{value:.6g}" for value in values) + "]"


def stale_ordinals(session_id: uuid.UUID, *, model: str, limit: int) -> list[int]:
    """The entries whose vectors another embedder made, or none."""
    stale = IndexEntry.objects.filter(session_id=session_id).exclude(embedding_model=model)
    return list(stale.order_by("-ordinal").values_list("ordinal", flat=True)[:limit])


def set_embeddings(vectors: Mapping[int, Sequence[float] | None], *, model: str) -> None:
    """Vectors by the entries' messages: a place may be another message's by now. None: this model makes none of it."""
    rows: list[dict[str, Any]] = [
        {"message_id": message_id, "vector": as_vector(vector), "model": model}
        for message_id, vector in vectors.items()
    ]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE sessions_app_indexentry SET embedding = %(vector)s::halfvec, embedding_model = %(model)s "
            "WHERE message_id = %(message_id)s",
            rows,
        )


def sessions_with_stale_embeddings(*, model: str, limit: int) -> list[uuid.UUID]:
    with connection.cursor() as cursor:
        # Two ranges, so that the index is read and not the table.
        cursor.execute(
            """
            SELECT DISTINCT session_id FROM (
                (SELECT session_id FROM sessions_app_indexentry WHERE embedding_model < %(model)s LIMIT %(rows)s)
                UNION ALL
                (SELECT session_id FROM sessions_app_indexentry WHERE embedding_model > %(model)s LIMIT %(rows)s)
            ) stale LIMIT %(limit)s
            """,
            {"model": model, "rows": 1_000, "limit": limit},
        )
        return [row[0] for row in cursor.fetchall()]

"""Reads of what is kept beside the messages: pinned ones, search hits, important ones, summaries.

Each reads a bounded number of rows, but for the search, which looks at the index entries of one session: exact, and
fast enough for some ten thousands (docs/decisions/0017-context.md).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connection

from sessions_app.models import Message, Summary
from sessions_app.prompt import PROMPT_COLUMNS, PromptMessage, as_prompt_messages
from sessions_app.search_text import searchable

MAX_TERMS = 24  # each is a bit of an int
LOOKED_AT = 100  # words of a long message
SAMPLE = 300  # newest entries by which a word counts as frequent
FREQUENT = 0.4


@dataclass(frozen=True, slots=True)
class Hit:
    """An index entry, best first among its kind."""

    ordinal: int
    score: float


# The query's words, and how many of the newest entries have each. Of many the last are looked at, where a question
# mostly stands, and of these the rarest are searched; what stands nowhere comes last, if that is known.
_TERMS = """
WITH newest AS MATERIALIZED (
    SELECT lexemes FROM sessions_app_indexentry WHERE session_id = %(session_id)s AND turn < %(turn)s
    ORDER BY ordinal DESC LIMIT %(sample)s
), term AS (
    SELECT '''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''' AS quoted,
        positions[1] AS place
    FROM unnest(to_tsvector(%(language)s::regconfig, %(query)s)) ORDER BY place DESC LIMIT %(looked_at)s
), counted AS (
    SELECT quoted, place, (SELECT count(*) FROM newest WHERE lexemes @@ quoted::tsquery) AS found,
        (SELECT count(*) FROM newest) AS entries FROM term
)
SELECT quoted, found, entries FROM counted
ORDER BY found = 0 AND entries < %(sample)s, found, place DESC LIMIT %(terms)s
"""

# One look at each entry of the session: rare words count more, as in BM25, and long messages less. How often a word
# stands in one message is not counted; of messages that says little. Which of the words an entry has is a bit mask:
# there are few different ones, so words are weighed and masks scored once, not once per entry.
_BY_WORDS = """
WITH entry AS MATERIALIZED (
    SELECT ordinal, word_count, {mask} AS mask FROM sessions_app_indexentry
    WHERE session_id = %(session_id)s AND turn < %(turn)s AND lexemes @@ %(any)s::tsquery
), shape AS MATERIALIZED (
    SELECT mask, count(*) AS entries, sum(word_count) AS words FROM entry GROUP BY mask
), whole AS MATERIALIZED (
    SELECT (SELECT max(ordinal)::float8 FROM sessions_app_indexentry WHERE session_id = %(session_id)s) AS entries,
        (sum(words) / sum(entries))::float8 AS words FROM shape
), term AS (
    SELECT bit, ln(1 + greatest(whole.entries - found + 0.5, 0.5) / (found + 0.5)) AS weight
    FROM whole, (
        SELECT bit, greatest(sum(shape.entries)::float8, (%(shares)s::float8[])[bit + 1] * max(whole.entries)) AS found
        FROM shape, whole, generate_series(0, {last}) AS bit WHERE mask & (1 << bit) > 0 GROUP BY bit
    ) counted
), scored AS MATERIALIZED (
    SELECT mask, sum(weight) AS score FROM shape JOIN term ON mask & (1 << bit) > 0 GROUP BY mask
)
SELECT ordinal, score / sqrt(0.5 + 0.5 * word_count / whole.words) AS score
FROM entry JOIN scored USING (mask), whole ORDER BY score DESC, ordinal DESC LIMIT %(limit)s
"""


def find_by_words(session_id: uuid.UUID, query: str, *, turn: int, limit: int) -> list[Hit]:
    """The entries before a turn that share words with the query, best first.

    In a long session a word that stands nearly everywhere finds nothing by itself, only beside others: it would cost
    most and say least.
    """
    values: dict[str, Any] = {"session_id": session_id, "turn": turn, "limit": limit}
    asked = {"language": settings.SEARCH_LANGUAGE, "query": searchable(query), "sample": SAMPLE}
    asked |= {"looked_at": LOOKED_AT, "terms": MAX_TERMS}
    with connection.cursor() as cursor:
        cursor.execute(_TERMS, values | asked)
        terms = cursor.fetchall()
        if not terms:
            return []
        shares = {term: found / entries if entries == SAMPLE else 0.0 for term, found, entries in terms}
        telling = [term for term, share in shares.items() if share <= FREQUENT] or list(shares)
        bits = [f"(lexemes @@ %(term{bit})s::tsquery)::int << {bit}" for bit in range(len(terms))]
        statement = _BY_WORDS.format(mask=" | ".join(f"({bit})" for bit in bits), last=len(terms) - 1)
        values |= {f"term{bit}": term for bit, term in enumerate(shares)}
        frequent = [share if share > FREQUENT else 0.0 for share in shares.values()]  # counted there, not where found
        cursor.execute(statement, values | {"any": " | ".join(telling), "shares": frequent})
        return [Hit(ordinal, score) for ordinal, score in cursor.fetchall()]


_SIMILAR = """
SELECT ordinal, -(embedding <#> %(vector)s::halfvec) FROM sessions_app_indexentry
WHERE session_id = %(session_id)s AND turn < %(turn)s AND embedding_model = %(model)s
    AND vector_dims(embedding) = %(size)s  -- a model may be replaced under its name
ORDER BY embedding <#> %(vector)s::halfvec LIMIT %(limit)s
"""


def find_by_meaning(session_id: uuid.UUID, vector: Sequence[float], *, model: str, turn: int, limit: int) -> list[Hit]:
    """The entries before a turn whose vectors, by the same model, are nearest to this one."""
    text = "[" + ",".join(map(str, vector)) + "]"
    values: dict[str, Any] = {"vector": text, "session_id": session_id, "turn": turn, "model": model, "limit": limit}
    values["size"] = len(vector)
    with connection.cursor() as cursor:
        cursor.execute(_SIMILAR, values)
        return [Hit(ordinal, score) for ordinal, score in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class Entry:
    """An index entry's messages: one, or a tool call with its results."""

    ordinal: int
    importance: float
    messages: tuple[PromptMessage, ...]

    @property
    def token_count(self) -> int:
        return sum(message.token_count for message in self.messages)


# LATERAL: a place in the index for each entry, never the whole session.
_ENTRIES = f"""
SELECT e.ordinal, e.importance, {", ".join(f"m.{name}" for name in PROMPT_COLUMNS)}
FROM sessions_app_indexentry e CROSS JOIN LATERAL (
    SELECT * FROM sessions_app_message m
    WHERE m.session_id = e.session_id AND m.turn = e.turn AND m.position BETWEEN e.position AND e.last_position
    OFFSET 0
) m
WHERE e.session_id = %(session_id)s AND """  # noqa: S608 (the columns are our own)
_ORDER = " ORDER BY e.ordinal, m.position"


def entries_at(session_id: uuid.UUID, ordinals: Sequence[int], *, turn: int) -> list[Entry]:
    """The entries of these places before a turn, in their order."""
    return _entries(
        "e.turn < %(turn)s AND e.ordinal = ANY(%(ordinals)s)",
        {"session_id": session_id, "turn": turn, "ordinals": list(ordinals)},
    )


def important_entries(session_id: uuid.UUID, *, turn: int, limit: int) -> list[Entry]:
    """The entries before a turn that score highest, in their order."""
    return _entries(
        """e.turn < %(turn)s AND e.ordinal IN (
            SELECT ordinal FROM sessions_app_indexentry
            WHERE session_id = %(session_id)s AND turn < %(turn)s ORDER BY importance DESC, ordinal DESC LIMIT %(limit)s
        )""",
        {"session_id": session_id, "turn": turn, "limit": limit},
    )


def _entries(condition: str, values: dict[str, Any]) -> list[Entry]:
    with connection.cursor() as cursor:
        cursor.execute(_ENTRIES + condition + _ORDER, values)
        rows = cursor.fetchall()
    found: dict[int, tuple[float, list[PromptMessage]]] = {}
    for ordinal, importance, *columns in rows:
        found.setdefault(ordinal, (importance, []))[1].extend(as_prompt_messages([columns]))
    return [Entry(ordinal, importance, tuple(messages)) for ordinal, (importance, messages) in found.items()]


def pinned_messages(session_id: uuid.UUID, *, turn: int) -> list[PromptMessage]:
    """The pinned messages before a turn, oldest first; of a tool call and its results all, if one is pinned."""
    pinned = Message.objects.filter(session_id=session_id, is_pinned=True, turn__lt=turn)
    places = list(pinned.values_list("id", "turn", "tool_call_id", "tool_calls"))
    if not places:
        return []
    with_tools = [turn for _, turn, call_id, calls in places if call_id or calls]
    with connection.cursor() as cursor:
        cursor.execute(_PINNED, {"session_id": session_id, "ids": [each[0] for each in places], "turns": with_tools})
        return _with_their_results(as_prompt_messages(cursor.fetchall()))


def _with_their_results(messages: Sequence[PromptMessage]) -> list[PromptMessage]:
    """Of the tool calls and results of whole turns those that go with a pinned one."""
    together: dict[tuple[int, str], set[tuple[int, str]]] = {}  # (turn, id) of a call: all of the same answer
    for message in messages:
        if message.tool_calls:
            together.update(dict.fromkeys(_calls_of(message), _calls_of(message)))
    wanted: set[tuple[int, str]] = set()
    for message in messages:
        if message.is_pinned:
            wanted.update(*(together.get(call, ()) for call in _calls_of(message)))
    return [message for message in messages if message.is_pinned or _calls_of(message) & wanted]


def _calls_of(message: PromptMessage) -> set[tuple[int, str]]:
    """The calls that a message makes or answers."""
    ids = [call["id"] for call in message.tool_calls] or ([message.tool_call_id] if message.tool_call_id else [])
    return {(message.turn, call_id) for call_id in ids}


_PINNED = f"""
SELECT {", ".join(PROMPT_COLUMNS)} FROM sessions_app_message
WHERE session_id = %(session_id)s AND id = ANY(%(ids)s)
    OR session_id = %(session_id)s AND turn = ANY(%(turns)s) AND (tool_call_id <> '' OR tool_calls <> '[]')
ORDER BY turn, position
"""  # noqa: S608 (the columns are our own)


def messages_between(
    session_id: uuid.UUID, first_turn: int, last_turn: int, *, max_tokens: int | None
) -> list[PromptMessage]:
    """The messages of whole turns, oldest first: as many turns as are needed to reach so many tokens, or all."""
    found: list[PromptMessage] = []
    used, turn = 0, first_turn - 1
    while turn < last_turn:
        with connection.cursor() as cursor:
            cursor.execute(_OF_TURNS, {"session_id": session_id, "after": turn, "last": last_turn, "turns": _TURNS})
            page = as_prompt_messages(cursor.fetchall())
        for message in page:
            if max_tokens is not None and used >= max_tokens and message.turn != found[-1].turn:
                return found
            found.append(message)
            used += message.token_count
        if not page:
            break
        turn = page[-1].turn
    return found


_TURNS = 20  # read at a time
_OF_TURNS = f"""
SELECT {", ".join(PROMPT_COLUMNS)} FROM sessions_app_message
WHERE session_id = %(session_id)s AND turn IN (
    SELECT DISTINCT turn FROM sessions_app_message
    WHERE session_id = %(session_id)s AND turn > %(after)s AND turn <= %(last)s ORDER BY turn LIMIT %(turns)s)
ORDER BY turn, position
"""  # noqa: S608 (the columns are our own)


def standing_summaries(session_id: uuid.UUID, *, turn: int) -> list[Summary]:
    """The summaries that stand for turns before this one, by level, oldest first."""
    found = Summary.objects.filter(session_id=session_id, last_turn__lt=turn, replaced_at=None, reverted_at=None)
    return list(found.order_by("level", "first_turn"))


@dataclass(frozen=True)
class Volume:
    """How much was said before a turn."""

    messages: int
    tokens: int
    first_at: datetime | None


def volume(session_id: uuid.UUID, *, turn: int) -> Volume:
    """Counts all messages before a turn: for people who look, not for turns."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), COALESCE(sum(token_count), 0), min(created_at) FROM sessions_app_message "
            "WHERE session_id = %s AND turn < %s",
            [session_id, turn],
        )
        return Volume(*cursor.fetchone())


def input_ratio(model: str, *, records: int) -> float | None:
    """The provider's count of input tokens to ours over a model's newest calls; None if there are fewer."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*), sum(input_tokens)::float8 / sum(counted_tokens) FROM (
                SELECT input_tokens, counted_tokens FROM sessions_app_usagerecord
                WHERE model = %s AND NOT is_estimated AND counted_tokens > 0 ORDER BY id DESC LIMIT %s
            ) newest
            """,
            [model, records],
        )
        count, ratio = cursor.fetchone()
    return ratio if count >= records else None

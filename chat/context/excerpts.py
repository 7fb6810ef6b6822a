"""Single messages from long ago, told in one message before the user's: oldest first, under the dates of their days."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date

import orjson

from chat.context.cutting import cut
from sessions_app.memory import Entry
from sessions_app.models import Role
from sessions_app.token_counting import TOKENS_PER_MESSAGE

DATE_TOKENS = 12
BLOCK_TOKENS = TOKENS_PER_MESSAGE + 24
CALL_TOKENS = 8  # of the words around a tool call
LONG = 400  # tokens of one excerpt, at most; a longer one is cut


@dataclass(frozen=True)
class Candidate:
    """An entry that may be shown. `why` says what for, in words for people."""

    entry: Entry
    score: float
    why: str


@dataclass(frozen=True)
class Excerpt:
    """An entry that is shown, in so many tokens, its day's heading not counted."""

    candidate: Candidate
    tokens: int

    @property
    def day(self) -> date:
        return self.candidate.entry.messages[0].created_at.date()


def choose(
    candidates: Iterable[Candidate], room: int, *, taken: Collection[int], shown: Sequence[Excerpt] = ()
) -> list[Excerpt]:
    """The best candidates in at most so many tokens. Best first; one that does not fit gives way to the next.

    `taken` are ids of messages that are shown anyway, `shown` are the excerpts that these ones join.
    """
    chosen: list[Excerpt] = []
    left = room if shown else room - BLOCK_TOKENS
    days = {excerpt.day for excerpt in shown}
    known = {excerpt.candidate.entry.ordinal for excerpt in shown}
    for candidate in candidates:
        entry = candidate.entry
        if entry.ordinal in known or any(message.id in taken for message in entry.messages):
            continue
        excerpt = Excerpt(candidate, min(_cost(entry), max(LONG, room // 8)))
        cost = excerpt.tokens + (0 if excerpt.day in days else DATE_TOKENS)
        if cost <= left:
            chosen.append(excerpt)
            known.add(entry.ordinal)
            days.add(excerpt.day)
            left -= cost
    return chosen


def cost_of(excerpts: Sequence[Excerpt]) -> int:
    """Tokens of the message that holds them, at most."""
    if not excerpts:
        return 0
    days = {excerpt.day for excerpt in excerpts}
    return BLOCK_TOKENS + DATE_TOKENS * len(days) + sum(excerpt.tokens for excerpt in excerpts)


def _cost(entry: Entry) -> int:
    return entry.token_count + CALL_TOKENS * sum(max(1, len(message.tool_calls)) for message in entry.messages[:-1])


def as_text(excerpts: Sequence[Excerpt]) -> str:
    """The message that shows them."""
    lines = ["Excerpts from earlier in this conversation, oldest first; they may help with the next message:"]
    day = None
    for excerpt in sorted(excerpts, key=lambda each: each.candidate.entry.ordinal):
        if excerpt.day != day:
            day = excerpt.day
            lines.append(f"[{day:%Y-%m-%d}]")
        text = excerpt_text(excerpt.candidate.entry)
        lines.append(text if excerpt.tokens >= _cost(excerpt.candidate.entry) else cut(text, excerpt.tokens))
    return "\n".join(lines)


def excerpt_text(entry: Entry) -> str:
    """An entry's messages as lines."""
    lines = []
    for message in entry.messages:
        label = "tool result" if message.role == Role.TOOL else message.role
        if message.content:
            lines.append(f"{label}: {message.content}")
        lines += [
            f"{label} called {call['name']}({orjson.dumps(call['arguments']).decode()})" for call in message.tool_calls
        ]
    return "\n".join(lines)

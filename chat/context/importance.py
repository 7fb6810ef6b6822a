"""Importance sampling: each message is scored once, when it is indexed, by signals that people can read."""

import re
from collections.abc import Sequence
from datetime import datetime

from chat.context.excerpts import Candidate
from sessions_app.memory import Entry
from sessions_app.models import Role
from sessions_app.prompt import PromptMessage

RECENCY_DAYS = 7.0  # after which a message counts half

_QUESTION = re.compile(r"\?|？|؟")
_DECISION = re.compile(
    r"\b(decid\w+|agree\w*|let's|we(?:'ll| will| should)|i(?:'ll| will| want| need| prefer)|must|never|always|"
    r"remember|important|deadline|promise\w*|plan(?:s|ned|ning)?|chose\w*|choose)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d")
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-ZÀ-ÖØ-ÞА-Я][\w'-]+")
_WORD = re.compile(r"\w{4,}")
_SMALL_TALK = 40  # characters


def signals(messages: Sequence[PromptMessage], answer: str = "") -> dict[str, float]:
    """What speaks for an entry's messages, by name. `answer` is what the assistant said after a tool's result."""
    text = "\n".join(message.content for message in messages)
    found = {
        "question": 1.0 if messages[0].role == Role.USER and _QUESTION.search(text) else 0.0,
        "decision": 2.0 if _DECISION.search(text) else 0.0,
        "numbers": 1.0 if _NUMBER.search(text) else 0.0,
        "names": min(2.0, 0.5 * len(set(_NAME.findall(text)))),
        "used result": 2.0 if _is_used(messages, answer) else 0.0,
        "small talk": -1.0 if len(text) < _SMALL_TALK else 0.0,
    }
    return {name: weight for name, weight in found.items() if weight}


def score(messages: Sequence[PromptMessage], answer: str = "") -> float:
    return 1.0 + sum(signals(messages, answer).values())


def _is_used(messages: Sequence[PromptMessage], answer: str) -> bool:
    """Whether the answer repeats something of a tool's result."""
    results = [message.content for message in messages if message.role == Role.TOOL]
    words = {word for result in results for word in _WORD.findall(result)}
    return bool(words & set(_WORD.findall(answer)))


def candidates(entries: Sequence[Entry], now: datetime) -> list[Candidate]:
    """The entries as candidates, best first: what is long ago counts less."""
    found = []
    for entry in entries:
        days = max(0.0, (now - entry.messages[0].created_at).total_seconds() / 86_400)
        weight = entry.importance * (0.5 + 0.5 * RECENCY_DAYS / (RECENCY_DAYS + days))
        why = ", ".join(signals(entry.messages)) or "said"
        found.append(Candidate(entry, weight, why))
    return sorted(found, key=lambda each: (-each.score, -each.entry.ordinal))

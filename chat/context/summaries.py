"""Summaries as the strategies see them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sessions_app.models import SummaryLevel
from sessions_app.token_counting import TOKENS_PER_MESSAGE

HEADING_TOKENS = 24  # of one summary: its turns and dates


@dataclass(frozen=True)
class SummaryText:
    """What stands for a range of turns. `tokens` are the text's own."""

    id: int
    level: SummaryLevel
    first_turn: int
    last_turn: int
    first_at: datetime
    last_at: datetime
    text: str
    tokens: int
    message_count: int
    tokens_before: int
    is_told: bool = True  # the session's clients know of it

    @property
    def cost(self) -> int:
        return self.tokens + HEADING_TOKENS

    def covers(self, other: "SummaryText") -> bool:
        return self.first_turn <= other.first_turn and other.last_turn <= self.last_turn


BLOCK_TOKENS = TOKENS_PER_MESSAGE + 16


def cost_of(summaries: Iterable[SummaryText]) -> int:
    """Tokens of the message that holds them."""
    costs = [summary.cost for summary in summaries]
    return BLOCK_TOKENS + sum(costs) if costs else 0


def as_text(summaries: Sequence[SummaryText]) -> str:
    """The message that stands for what they summarise, oldest first."""
    parts = [f"{_heading(summary)}\n{summary.text}" for summary in summaries]
    return "\n\n".join(["Summary of what was said before:", *parts])


def _heading(summary: SummaryText) -> str:
    first, last = (at.strftime("%Y-%m-%d") for at in (summary.first_at, summary.last_at))
    return f"[{first}]" if first == last else f"[{first} to {last}]"

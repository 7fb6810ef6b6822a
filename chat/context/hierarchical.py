"""Hierarchical summaries: turn ranges, days, the session. What is long ago is told coarsely, what is recent finely."""

from collections.abc import Sequence

from chat.context.summaries import SummaryText, cost_of
from sessions_app.models import SummaryLevel


def choose(summaries: Sequence[SummaryText], room: int) -> list[SummaryText]:
    """Summaries that tell each turn once, in at most so many tokens, oldest first.

    It begins with the finest. While they are too many, the oldest give way to the summary of their day, then days to
    that of the session; what nothing coarser stands for is left out, oldest first.
    """
    levels = {level: [each for each in summaries if each.level == level] for level in SummaryLevel}
    coarser = [*levels[SummaryLevel.DAY], *levels[SummaryLevel.SESSION]]
    chosen = _finest(levels)
    for replacement in coarser:
        if cost_of(chosen) <= room:
            return chosen
        covered = [each for each in chosen if replacement.covers(each)]
        if cost_of(covered) > cost_of([replacement]):
            rest = [each for each in chosen if each not in covered]
            chosen = sorted([replacement, *rest], key=lambda each: each.first_turn)
    while chosen and cost_of(chosen) > room:
        del chosen[0]
    return chosen


def _finest(levels: dict[SummaryLevel, list[SummaryText]]) -> list[SummaryText]:
    """Turn ranges, and coarser ones where there are none."""
    chosen = list(levels[SummaryLevel.TURNS])
    for level in (SummaryLevel.DAY, SummaryLevel.SESSION):
        for each in levels[level]:
            if not any(_overlap(each, other) for other in chosen):
                chosen.append(each)
    return sorted(chosen, key=lambda each: each.first_turn)


def _overlap(one: SummaryText, other: SummaryText) -> bool:
    return one.first_turn <= other.last_turn and other.first_turn <= one.last_turn

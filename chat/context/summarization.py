"""Summarisation of what falls out: the summaries of the turns before the window, newest kept longest."""

from collections.abc import Sequence

from chat.context.summaries import SummaryText, cost_of
from sessions_app.models import SummaryLevel


def choose(summaries: Sequence[SummaryText], room: int) -> list[SummaryText]:
    """Those of turn ranges in at most so many tokens, oldest first; the oldest are left out if not all fit."""
    chosen: list[SummaryText] = []
    for summary in reversed([each for each in summaries if each.level == SummaryLevel.TURNS]):
        if cost_of([summary, *chosen]) > room:
            break
        chosen.insert(0, summary)
    return chosen

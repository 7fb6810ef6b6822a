"""Sliding window: the newest units that fit.

Its beginning moves in steps, not with each turn, so that the prompts of several turns begin with the same messages
and the model's server finds them in its cache.
"""

from collections.abc import Sequence

from chat.context.units import Unit

_STEPS = 4  # a full window gives up this part of itself at once


def choose(units: Sequence[Unit], room: int) -> list[Unit]:
    """The newest of the units, oldest first, in at most so many tokens. Without a hole: it ends at the first that
    does not fit."""
    used, first = 0, len(units)
    while first > 0 and used + units[first - 1].tokens <= room:
        first -= 1
        used += units[first].tokens
    return list(units[_step_up(units, first) :]) if first else list(units)


def _step_up(units: Sequence[Unit], first: int) -> int:
    """The next unit at which a window may begin: one whose turn is a multiple of the step.

    The step is a power of two, so it changes seldom, and with it the places at which windows begin.
    """
    if first >= len(units):
        return first
    turns = units[-1].turn - units[first].turn + 1
    step = 1
    while step * 2 * _STEPS <= turns:
        step *= 2
    for index in range(first, len(units)):
        if units[index].turn % step == 0 and (index == 0 or units[index - 1].turn != units[index].turn):
            return index
    return first

"""The strategies together: each takes its share of the room, and what one leaves goes to the next.

`combined` is the default mixture; an agent type may have its own (context_shares).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chat.context import excerpts, hierarchical, sliding_window, summaries, summarization
from chat.context.excerpts import Candidate, Excerpt
from chat.context.summaries import SummaryText
from chat.context.units import Unit, tokens_of
from sessions_app.agent_config import AgentConfig
from sessions_app.models import ContextStrategy as Strategy

MIXTURES: dict[str, dict[str, float]] = {
    Strategy.COMBINED: {Strategy.SLIDING_WINDOW: 0.2, Strategy.HIERARCHICAL: 0.1, Strategy.RETRIEVAL: 0.7},
    Strategy.SLIDING_WINDOW: {Strategy.SLIDING_WINDOW: 1.0},
    Strategy.SUMMARIZATION: {Strategy.SLIDING_WINDOW: 0.7, Strategy.SUMMARIZATION: 0.3},
    Strategy.IMPORTANCE: {Strategy.SLIDING_WINDOW: 0.4, Strategy.IMPORTANCE: 0.6},
    Strategy.HIERARCHICAL: {Strategy.SLIDING_WINDOW: 0.7, Strategy.HIERARCHICAL: 0.3},
    Strategy.RETRIEVAL: {Strategy.SLIDING_WINDOW: 0.25, Strategy.RETRIEVAL: 0.75},
}
SUMMARIZING = {Strategy.SUMMARIZATION: summarization.choose, Strategy.HIERARCHICAL: hierarchical.choose}


def shares_of(agent: AgentConfig) -> dict[str, float]:
    """Strategies and their parts of the room, 1 in all at most."""
    return agent.context_shares or MIXTURES.get(agent.context_strategy, MIXTURES[Strategy.COMBINED])


@dataclass(frozen=True)
class Material:
    """What the strategies may choose from, all from before the running turn.

    `recent` are the newest units, oldest first, without a hole but for pinned ones; `ranked` are candidates by the
    strategy that ranked them, best first.
    """

    recent: Sequence[Unit]
    ranked: Mapping[str, Sequence[Candidate]] = field(default_factory=dict)
    summaries: Sequence[SummaryText] = ()


@dataclass
class Selection:
    """What the strategies have chosen; all lists but the excerpts are in the conversation's order."""

    recent: list[Unit] = field(default_factory=list)
    summaries: list[SummaryText] = field(default_factory=list)
    excerpts: dict[str, list[Excerpt]] = field(default_factory=dict)

    @property
    def all_excerpts(self) -> list[Excerpt]:
        return [excerpt for chosen in self.excerpts.values() for excerpt in chosen]

    @property
    def tokens(self) -> int:
        return tokens_of(self.recent) + summaries.cost_of(self.summaries) + excerpts.cost_of(self.all_excerpts)


def compose(material: Material, shares: Mapping[str, float], room: int) -> Selection:
    """A selection of at most so many tokens."""
    chosen = Selection()
    allowance = 0.0
    for strategy in (Strategy.SLIDING_WINDOW, *SUMMARIZING, Strategy.IMPORTANCE, Strategy.RETRIEVAL):
        if share := shares.get(strategy, 0.0):
            allowance += room * share
            before = chosen.tokens
            _add(chosen, material, strategy, min(int(allowance), room - before))
            allowance -= chosen.tokens - before
    if Strategy.SLIDING_WINDOW in shares or not chosen.tokens:
        _widen(chosen, material, room)
    return chosen


def _add(chosen: Selection, material: Material, strategy: Any, room: int) -> None:
    if strategy == Strategy.SLIDING_WINDOW:
        chosen.recent = sliding_window.choose(material.recent, room)
    elif strategy in SUMMARIZING:
        first_turn = chosen.recent[0].turn if chosen.recent else None
        older = [each for each in material.summaries if first_turn is None or each.first_turn < first_turn]
        if not chosen.summaries:
            chosen.summaries = SUMMARIZING[strategy](older, room)
    else:
        found = excerpts.choose(
            material.ranked.get(strategy, ()), room, taken=_taken(chosen), shown=chosen.all_excerpts
        )
        chosen.excerpts[strategy] = found


def _widen(chosen: Selection, material: Material, room: int) -> None:
    """What nobody has used shows more of the newest messages, if they join those that are shown."""
    left = room - chosen.tokens
    shown = {message.id for excerpt in chosen.all_excerpts for message in excerpt.candidate.entry.messages}
    older = material.recent[: len(material.recent) - len(chosen.recent)]
    added: list[Unit] = []
    for unit in reversed(older):
        if unit.tokens > left or unit.ids & shown:
            break
        added.insert(0, unit)
        left -= unit.tokens
    chosen.recent = added + chosen.recent


def _taken(chosen: Selection) -> set[int]:
    return {message.id for unit in chosen.recent for message in unit.messages}

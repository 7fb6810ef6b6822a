"""Retrieval: what was said that fits the question, by words and by meaning.

Two rankings are fused by reciprocal rank (Cormack et al. 2009), which needs no common scale. A hit lends weight to its
neighbours, since an answer often stands beside the words that were asked for. Measured in docs/bench.md.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest

from chat.context.excerpts import Candidate
from sessions_app.memory import Entry, Hit

RANK_OFFSET = 10  # the usual 60 is for rankings of thousands
NEIGHBOUR_WEIGHT = 0.5
HITS = 200  # of each ranking


@dataclass(frozen=True)
class Ranked:
    """An entry's place among all, and by what it came there."""

    ordinal: int
    score: float
    why: str


def fuse(by_words: Sequence[Hit], by_meaning: Sequence[Hit], *, limit: int) -> list[Ranked]:
    """The best of both rankings as one, best first; of equal ones the newer."""
    rankings = (("words", by_words), ("meaning", by_meaning))
    scores: dict[int, float] = defaultdict(float)
    for _, hits in rankings:
        for rank, hit in enumerate(hits, 1):
            scores[hit.ordinal] += 1 / (RANK_OFFSET + rank)
    lent: dict[int, float] = defaultdict(float)
    for ordinal, score in scores.items():
        lent[ordinal - 1] += NEIGHBOUR_WEIGHT * score
        lent[ordinal + 1] += NEIGHBOUR_WEIGHT * score
    totals = [(scores.get(ordinal, 0.0) + lent[ordinal], ordinal) for ordinal in {*scores, *lent} if ordinal > 0]
    ranks = {name: {hit.ordinal: rank for rank, hit in enumerate(hits, 1)} for name, hits in rankings}
    return [Ranked(ordinal, score, _why(ordinal, ranks)) for score, ordinal in nlargest(limit, totals)]


def _why(ordinal: int, ranks: dict[str, dict[int, int]]) -> str:
    found = [f"{name} #{by_ordinal[ordinal]}" for name, by_ordinal in ranks.items() if ordinal in by_ordinal]
    return ", ".join(found) or "beside a hit"


def candidates(ranked: Sequence[Ranked], entries: Sequence[Entry]) -> list[Candidate]:
    """Those of the ranked whose entries were read, best first."""
    known = {entry.ordinal: entry for entry in entries}
    return [Candidate(known[each.ordinal], each.score, each.why) for each in ranked if each.ordinal in known]

"""Retrieval: what was said that fits the question, by words and by meaning.

Two rankings are fused by reciprocal rank (Cormack et al. 2009), which needs no common scale. A hit lends weight to its
neighbours, since an answer often stands beside the words that were asked for. Measured in docs/bench.md.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

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


def fuse(by_words: Sequence[Hit], by_meaning: Sequence[Hit]) -> list[Ranked]:
    """Both rankings as one, best first; of equal ones the newer."""
    scores: dict[int, float] = defaultdict(float)
    reasons: dict[int, list[str]] = defaultdict(list)
    for name, hits in (("words", by_words), ("meaning", by_meaning)):
        for rank, hit in enumerate(hits, 1):
            scores[hit.ordinal] += 1 / (RANK_OFFSET + rank)
            reasons[hit.ordinal].append(f"{name} #{rank}")
    lent: dict[int, float] = defaultdict(float)
    for ordinal, score in scores.items():
        for neighbour in (ordinal - 1, ordinal + 1):
            lent[neighbour] += NEIGHBOUR_WEIGHT * score
    ranked = [
        Ranked(ordinal, scores.get(ordinal, 0.0) + lent[ordinal], ", ".join(reasons.get(ordinal, ["beside a hit"])))
        for ordinal in {*scores, *lent}
        if ordinal > 0
    ]
    return sorted(ranked, key=lambda each: (-each.score, -each.ordinal))


def candidates(ranked: Sequence[Ranked], entries: Sequence[Entry]) -> list[Candidate]:
    """Those of the ranked whose entries were read, best first."""
    known = {entry.ordinal: entry for entry in entries}
    return [Candidate(known[each.ordinal], each.score, each.why) for each in ranked if each.ordinal in known]

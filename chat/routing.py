"""Which queue a run goes to: one for each set of capabilities that agent types require.

A worker listens to the queues of all sets that it offers. So the broker itself does the matching, whatever it is.
"""

from collections.abc import Iterable
from itertools import combinations

RUNS_QUEUE = "runs"


def queue_for(required: Iterable[str]) -> str:
    """The queue of runs that need a worker with all of these: `runs`, `runs.gpu`, `runs.eu.gpu`."""
    return ".".join([RUNS_QUEUE, *sorted(required)])


def queues_of_worker(offered: Iterable[str]) -> list[str]:
    """Those that a worker with these capabilities can serve."""
    words = sorted(set(offered))
    sets = [each for size in range(len(words) + 1) for each in combinations(words, size)]
    return [queue_for(each) for each in sets]

"""Which queue a run goes to."""

import uuid

RUNS_QUEUE = "runs"


def queue_for(run_id: uuid.UUID) -> str:
    """The shared queue: every worker takes every run."""
    return RUNS_QUEUE

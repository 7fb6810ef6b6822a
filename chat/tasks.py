"""What Celery calls: runs on the queue `runs`, upkeep on the queue `background`."""

import gc
import uuid
from typing import Any

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down

from chat.context.tending import sessions_to_embed, tend_session
from chat.routing import RUNS_QUEUE
from chat.runs import dispatch, recover, worker


@shared_task(name=dispatch.EXECUTE_RUNS)
def execute_runs(*run_ids: str) -> None:
    """Execute runs on this process's event loop, to the last one's end; a duplicate finds them claimed and returns."""
    worker.host().run([uuid.UUID(run_id) for run_id in run_ids])


@shared_task(name="chat.recover_runs")
def recover_runs() -> None:
    """What runs without a worker, what waits without a dispatch or for too long, and approvals that nobody gave."""
    recover.sweep()


@shared_task(name=dispatch.TEND_CONTEXT)
def tend_context(session_id: str) -> None:
    """Index and summarise what a session's prompts will need; what is too much for one task, another goes on with."""
    if tend_session(uuid.UUID(session_id)):
        dispatch.ask_to_tend_context(uuid.UUID(session_id))


@shared_task(name="chat.refresh_embeddings")
def refresh_embeddings() -> None:
    """Sessions whose vectors another embedder made are embedded anew, a few at a time."""
    for session_id in sessions_to_embed():
        dispatch.ask_to_tend_context(session_id)


@worker_shutting_down.connect
def drain_host(sender: object, **kwargs: object) -> None:
    """A deploy is no crash: hand the runs over. Celery waits for their tasks to return."""
    if worker.host.cache_info().currsize:
        worker.host().drain()


@worker_ready.connect
def start_host(sender: Any, **kwargs: object) -> None:
    """Be warm before the first run comes. As many runs as Celery has threads go on at once, whatever messages bring."""
    queues = getattr(getattr(sender, "task_consumer", None), "queues", [])
    if any(queue.name.partition(".")[0] == RUNS_QUEUE for queue in queues):
        worker.host().limit_runs(sender.pool.limit)
        # What is loaded by now stays: a full collection that went through it would hold up all runs for 0.1 s and more.
        gc.collect()
        gc.freeze()

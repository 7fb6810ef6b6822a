"""From a queued run to a worker: the router names the queue, Celery carries the run's id."""

import logging
import uuid
from collections.abc import Sequence

from celery import current_app
from django.db import close_old_connections
from django.dispatch import receiver
from kombu.exceptions import OperationalError

from chat.routing import queue_for
from chat.runs.outbox import Outbox
from sessions_app import queries
from sessions_app.services.recovering import mark_undispatched
from sessions_app.signals import run_ready

logger = logging.getLogger(__name__)

EXECUTE_RUNS = "chat.execute_run"  # the task's name; its code is the worker's
TEND_CONTEXT = "chat.tend_context"


def dispatch(run_id: uuid.UUID, *, required: Sequence[str] | None = None) -> None:
    """Hand the run to a worker, one that offers what is `required` (None: it is looked up).

    A broker that is down loses nothing: the sweeper dispatches it later.

    Duplicates are harmless, only one worker can claim a run.
    """
    _give(_queue_of(run_id, required), [run_id])


def dispatch_soon(run_id: uuid.UUID, *, required: Sequence[str] | None = None) -> None:
    """The same in a thread of its own, together with what else begins now; nobody waits for the broker."""
    _outbox.add(_queue_of(run_id, required), run_id)


@receiver(run_ready)
def dispatch_ready(sender: object, run_id: uuid.UUID, **kwargs: object) -> None:
    dispatch(run_id)


def _queue_of(run_id: uuid.UUID, required: Sequence[str] | None) -> str:
    return queue_for(queries.required_capabilities(run_id) if required is None else required)


def _give(queue: str, run_ids: Sequence[uuid.UUID]) -> None:
    try:
        _send(queue, run_ids, retry=False)
    except (OperationalError, OSError):
        _send_again(queue, run_ids)


def _give_from_outbox(queue: str, run_ids: Sequence[uuid.UUID]) -> None:
    try:
        _give(queue, run_ids)
    except Exception:
        logger.exception("Not dispatched, the sweeper will do it: %s", _listed(run_ids))
    finally:
        close_old_connections()  # of this thread, which opens one only when a broker takes nothing


_outbox = Outbox(_give_from_outbox)


def _send(queue: str, run_ids: Sequence[uuid.UUID], *, retry: bool) -> None:
    args = [str(run_id) for run_id in run_ids]
    current_app.send_task(EXECUTE_RUNS, args=args, queue=queue, ignore_result=True, retry=retry)


def ask_to_tend_context(session_id: uuid.UUID) -> None:
    """Have a session's index and summaries brought up to date. If the broker does not take it, its next turn asks."""
    try:
        current_app.send_task(TEND_CONTEXT, args=[str(session_id)], ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        logger.warning("The context of session %s is not tended now: %s", session_id, error)


def _send_again(queue: str, run_ids: Sequence[uuid.UUID]) -> None:
    """The first try is the quick one; a connection that the broker has closed meanwhile needs kombu's retry."""
    try:
        _send(queue, run_ids, retry=True)
    except (OperationalError, OSError) as error:
        logger.warning("The broker takes nothing, the sweeper will dispatch %s: %s", _listed(run_ids), error)
        for run_id in run_ids:
            mark_undispatched(run_id=run_id)


def _listed(run_ids: Sequence[uuid.UUID]) -> str:
    return ", ".join(map(str, run_ids))

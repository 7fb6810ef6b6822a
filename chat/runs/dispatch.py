"""From a queued run to a worker: the router names the queue, Celery carries the run's id."""

import logging
import uuid
from collections.abc import Sequence

from celery import current_app
from django.dispatch import receiver
from kombu.exceptions import OperationalError

from chat.routing import queue_for
from sessions_app import queries
from sessions_app.services.recovering import mark_undispatched
from sessions_app.signals import run_ready

logger = logging.getLogger(__name__)

EXECUTE_RUN = "chat.execute_run"  # the task's name; its code is the worker's
TEND_CONTEXT = "chat.tend_context"


def dispatch(run_id: uuid.UUID, *, required: Sequence[str] | None = None) -> None:
    """Hand the run to a worker, one that offers what is `required` (None: it is looked up).

    A broker that is down loses nothing: the sweeper dispatches it later.

    Duplicates are harmless, only one worker can claim a run.
    """
    queue = queue_for(queries.required_capabilities(run_id) if required is None else required)
    try:
        _send(run_id, queue, retry=False)
    except (OperationalError, OSError):
        _send_again(run_id, queue)


@receiver(run_ready)
def dispatch_ready(sender: object, run_id: uuid.UUID, **kwargs: object) -> None:
    dispatch(run_id)


def _send(run_id: uuid.UUID, queue: str, *, retry: bool) -> None:
    current_app.send_task(EXECUTE_RUN, args=[str(run_id)], queue=queue, ignore_result=True, retry=retry)


def ask_to_tend_context(session_id: uuid.UUID) -> None:
    """Have a session's index and summaries brought up to date. If the broker does not take it, its next turn asks."""
    try:
        current_app.send_task(TEND_CONTEXT, args=[str(session_id)], ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        logger.warning("The context of session %s is not tended now: %s", session_id, error)


def _send_again(run_id: uuid.UUID, queue: str) -> None:
    """The first try is the quick one; a connection that the broker has closed meanwhile needs kombu's retry."""
    try:
        _send(run_id, queue, retry=True)
    except (OperationalError, OSError) as error:
        logger.warning("The broker does not take run %s, the sweeper will dispatch it: %s", run_id, error)
        mark_undispatched(run_id=run_id)

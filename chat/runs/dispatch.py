"""From a queued run to a worker: a slot first, then the router names the queue and Celery carries the run's id."""

import logging
import uuid
from collections.abc import Iterable, Sequence

from celery import current_app
from django.dispatch import receiver
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from chat.routing import queue_for
from chat.stream.publish import publish
from monitoring import slots
from sessions_app import queries
from sessions_app.models import Run, RunStatus
from sessions_app.queries import Placement
from sessions_app.services.recovering import mark_undispatched
from sessions_app.services.waiting import tell_waiting
from sessions_app.signals import run_ready, runs_cancelled

logger = logging.getLogger(__name__)

EXECUTE_RUN = "chat.execute_run"  # the task's name; its code is the worker's
TEND_CONTEXT = "chat.tend_context"


def dispatch(run_id: uuid.UUID, *, placement: Placement | None = None) -> None:
    """Hand a run that is first in its session to a worker, or have it wait for a free slot.

    `placement` is looked up if it is not given. Redis or a broker that is down loses nothing: the sweeper dispatches
    it later. Duplicates are harmless, only one worker can claim a run.
    """
    placement = placement or queries.placements_of_queued([run_id]).get(run_id)
    if placement is None:
        return  # somebody has claimed it, or it has ended
    try:
        acquired = slots.acquire(run_id, slots.lane_of(placement))
    except (RedisError, OSError) as error:
        logger.warning("No slot can be had for run %s, the sweeper will try again: %s", run_id, error)
        mark_undispatched(run_id=run_id)
        return
    if acquired.position is None:
        _hand_over(run_id, placement.required)
    else:
        tell_position(run_id, acquired.position)
    dispatch_granted(acquired.granted)


@receiver(run_ready)
def dispatch_ready(sender: object, run_id: uuid.UUID, **kwargs: object) -> None:
    dispatch(run_id)


def dispatch_next(session_id: uuid.UUID) -> None:
    """The session's first run goes, if it waits for that."""
    if next_run := queries.next_queued_run(session_id):
        dispatch(next_run)


# --- slots -----------------------------------------------------------------------------------------------------------


def dispatch_granted(run_ids: Sequence[uuid.UUID]) -> None:
    """Hand over runs that have waited and have a slot now."""
    if not run_ids:
        return
    placements = queries.placements_of_queued(run_ids)
    for run_id in run_ids:
        if run_id in placements:
            _hand_over(run_id, placements[run_id].required)
        else:
            release_unless_running(run_id)


def release(run_id: uuid.UUID) -> None:
    """The run is at work no more, or waits no more: its slot goes to the next one."""
    try:
        granted = slots.release(run_id)
    except (RedisError, OSError) as error:
        logger.warning("The slot of run %s comes back when it expires: %s", run_id, error)
    else:
        dispatch_granted(granted)


def release_unless_running(run_id: uuid.UUID) -> None:
    """The run was not to be claimed: its slot goes back, unless another worker holds it."""
    if not Run.objects.filter(pk=run_id, status=RunStatus.RUNNING).exists():
        release(run_id)


@receiver(runs_cancelled)
def release_cancelled(sender: object, run_ids: Iterable[uuid.UUID], **kwargs: object) -> None:
    for run_id in run_ids:
        release(run_id)


def tell_position(run_id: uuid.UUID, position: int) -> None:
    """Let those who watch know that the run waits, and where."""
    if told := tell_waiting(run_id=run_id, position=position):
        publish(told)


# --- the broker ------------------------------------------------------------------------------------------------------


def _hand_over(run_id: uuid.UUID, required: Sequence[str]) -> None:
    """To a worker that offers what is `required`."""
    queue = queue_for(required)
    try:
        _send(run_id, queue, retry=False)
    except (OperationalError, OSError):
        _send_again(run_id, queue)


def _send(run_id: uuid.UUID, queue: str, *, retry: bool) -> None:
    current_app.send_task(EXECUTE_RUN, args=[str(run_id)], queue=queue, ignore_result=True, retry=retry)


def _send_again(run_id: uuid.UUID, queue: str) -> None:
    """The first try is the quick one; a connection that the broker has closed meanwhile needs kombu's retry."""
    try:
        _send(run_id, queue, retry=True)
    except (OperationalError, OSError) as error:
        logger.warning("The broker does not take run %s, the sweeper will dispatch it: %s", run_id, error)
        mark_undispatched(run_id=run_id)


def ask_to_tend_context(session_id: uuid.UUID) -> None:
    """Have a session's index and summaries brought up to date. If the broker does not take it, its next turn asks."""
    try:
        current_app.send_task(TEND_CONTEXT, args=[str(session_id)], ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        logger.warning("The context of session %s is not tended now: %s", session_id, error)

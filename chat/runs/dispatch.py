"""From a queued run to a worker: a slot first, then the router names the queue and Celery carries the run's id."""

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence

from celery import current_app
from django.db import close_old_connections
from django.dispatch import receiver
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from chat.routing import queue_for
from chat.runs.outbox import Outbox
from chat.stream.publish import publish
from monitoring import slots
from monitoring.workers import is_served
from sessions_app import queries
from sessions_app.facts import NO_WORKER
from sessions_app.models import Run, RunStatus
from sessions_app.queries import Placement
from sessions_app.services.dispatching import mark_undispatched, take_next
from sessions_app.services.waiting import tell_waiting
from sessions_app.signals import run_ready, runs_cancelled

logger = logging.getLogger(__name__)

EXECUTE_RUNS = "chat.execute_run"  # the task's name; its code is the worker's
TEND_CONTEXT = "chat.tend_context"


def dispatch(run_id: uuid.UUID, *, placement: Placement | None = None) -> None:
    """Hand a run that is first in its session to a worker, or have it wait for a free slot.

    `placement` is looked up if it is not given. Redis or a broker that is down loses nothing: the sweeper dispatches
    it later, as soon as there is one that offers what the run requires. Duplicates are harmless, only one worker can
    claim a run.
    """
    _take_slot(run_id, placement, _give_one)


def dispatch_soon(run_id: uuid.UUID, *, placement: Placement | None = None) -> None:
    """The same, but the broker gets it in a thread of its own, together with what else begins now; nobody waits for
    it."""
    _take_slot(run_id, placement, _outbox.add)


def _take_slot(run_id: uuid.UUID, placement: Placement | None, give: Callable[[str, uuid.UUID], None]) -> None:
    placement = placement or queries.placements_of_queued([run_id]).get(run_id)
    if placement is None:
        return  # somebody has claimed it, or it has ended
    queue = queue_for(placement.required)
    try:
        if placement.required and not is_served(queue):  # what nobody takes shall hold no slot
            mark_undispatched([run_id])
            tell_position(run_id, NO_WORKER)
            return
        acquired = slots.acquire(run_id, slots.lane_of(placement))
    except (RedisError, OSError) as error:
        logger.warning("No slot can be had for run %s, the sweeper will try again: %s", run_id, error)
        mark_undispatched([run_id])
        return
    if acquired.position is None:
        give(queue, run_id)
    else:
        tell_position(run_id, acquired.position)
    dispatch_granted(acquired.granted)


@receiver(run_ready)
def dispatch_ready(sender: object, run_id: uuid.UUID, **kwargs: object) -> None:
    dispatch(run_id)


def dispatch_next(session_id: uuid.UUID) -> None:
    """The session's first run goes, if it waits for that."""
    if found := take_next(session_id):
        run_id, placement = found
        dispatch(run_id, placement=placement)


# --- slots -----------------------------------------------------------------------------------------------------------


def dispatch_granted(run_ids: Sequence[uuid.UUID]) -> None:
    """Hand over runs that have waited and have a slot now."""
    if not run_ids:
        return
    placements = queries.placements_of_queued(run_ids)
    for run_id in run_ids:
        if run_id in placements:
            _give_one(queue_for(placements[run_id].required), run_id)
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


def _give_one(queue: str, run_id: uuid.UUID) -> None:
    _give(queue, [run_id])


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


def _send_again(queue: str, run_ids: Sequence[uuid.UUID]) -> None:
    """The first try is the quick one; a connection that the broker has closed meanwhile needs kombu's retry."""
    try:
        _send(queue, run_ids, retry=True)
    except (OperationalError, OSError) as error:
        logger.warning("The broker takes nothing, the sweeper will dispatch %s: %s", _listed(run_ids), error)
        mark_undispatched(run_ids)


def _listed(run_ids: Sequence[uuid.UUID]) -> str:
    return ", ".join(map(str, run_ids))


def ask_to_tend_context(session_id: uuid.UUID) -> None:
    """Have a session's index and summaries brought up to date. If the broker does not take it, its next turn asks."""
    try:
        current_app.send_task(TEND_CONTEXT, args=[str(session_id)], ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        logger.warning("The context of session %s is not tended now: %s", session_id, error)

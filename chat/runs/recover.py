"""The sweeper: runs that wait without a dispatch are sent again, runs whose worker is lost go to another one.

Safe to run many times at once: each row is settled under its session's lock.
"""

import logging
import uuid
from collections.abc import Collection
from typing import Any

from celery import current_app
from django.conf import settings
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from chat.routing import RUNS_QUEUE
from chat.runs.dispatch import dispatch, dispatch_granted, dispatch_next, release, tell_position
from chat.stream.publish import publish
from monitoring import slots
from monitoring.ledger import charge_lost
from monitoring.pausing import resume_paused
from sessions_app.failpoints import fail_point
from sessions_app.services.cancelling import tell_without_worker, untold_sessions
from sessions_app.services.deciding import expire_approvals, expired_approvals
from sessions_app.services.dispatching import take_undispatched
from sessions_app.services.recovering import overdue_runs, recover_run
from sessions_app.services.waiting import changed_positions, end_waiting

logger = logging.getLogger(__name__)

# A message that a worker has fetched is in no queue, though its run is not claimed yet: it is given this long.
FETCHED_SECONDS = 5.0
POSITIONS_TOLD = 50  # at most, of each sweep


def sweep() -> None:
    """All of it: slots first, whose waiting runs are not to be dispatched again."""
    dispatch_undispatched(but=sweep_slots())
    recover_lost_runs()
    tell_of_cancelled()
    expire_unanswered_approvals()
    charge_lost()
    resume_paused()


def sweep_slots() -> Collection[uuid.UUID]:
    """Let go on what has a slot now, end what has waited for one for too long, and tell others of their new places.

    Returns the runs that wait; without Redis those that it knows of do not matter.
    """
    try:
        swept = slots.sweep()
    except (RedisError, OSError) as error:
        logger.warning("The slots cannot be looked at: %s", error)
        return ()
    dispatch_granted(swept.granted)
    for run_id in swept.late:
        if told := end_waiting(run_id=run_id, seconds=settings.SLOT_WAIT_SECONDS):
            logger.warning("Run %s has waited for a slot for too long, it has ended", run_id)
            publish(told)
            dispatch_next(told.session_id)
    for run_id, position in changed_positions(swept.positions, limit=POSITIONS_TOLD).items():
        tell_position(run_id, position)
    return swept.waiting


def dispatch_undispatched(*, but: Collection[uuid.UUID] = ()) -> None:
    """Dispatch again what no broker took, and what one has lost: its queue is empty, but runs wait for it."""
    age = FETCHED_SECONDS if _is_queue_empty() else None
    for run_id in take_undispatched(older_than_seconds=age, but=but):
        dispatch(run_id)


def _is_queue_empty() -> bool:
    with current_app.connection_for_write() as connection:
        try:
            channel: Any = connection.default_channel
            found = channel.queue_declare(RUNS_QUEUE, passive=True)
            return bool(found.message_count == 0)
        except connection.channel_errors:
            return True  # no such queue: nothing waits in it
        except connection.recoverable_connection_errors as error:
            logger.warning("The broker does not say what waits: %s", error)
            return False
        except OperationalError as error:
            logger.warning("The broker does not answer: %s", error)
            return False


def recover_lost_runs() -> None:
    """Take runs whose lease ran out from their workers, and let another one go on with them."""
    for run_id in overdue_runs():
        recovered = recover_run(run_id=run_id)
        fail_point("after_recover")
        if recovered is None:
            continue
        if recovered.told is None:
            logger.warning("Run %s: its worker is gone, it goes to another one", run_id)
            dispatch(run_id)
            continue
        logger.warning("Run %s: its worker is gone, it has ended", run_id)
        publish(recovered.told)
        release(run_id)
        dispatch_next(recovered.told.session_id)


def tell_of_cancelled() -> None:
    """Tell of runs that were cancelled while they waited, whose session's worker was lost before it could."""
    for session_id in untold_sessions():
        if told := tell_without_worker(session_id=session_id):
            publish(told)


def expire_unanswered_approvals() -> None:
    """Do with approvals that nobody gave in time what the agent types say."""
    for run_id in expired_approvals():
        told = expire_approvals(run_id=run_id)
        if told is None:
            continue
        logger.warning("Run %s: nobody decided about its tool call in time, it has ended", run_id)
        publish(told)
        dispatch_next(told.session_id)

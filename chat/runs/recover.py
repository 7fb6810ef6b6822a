"""The sweeper: runs that wait without a dispatch are sent again, runs whose worker is lost go to another one.

Safe to run many times at once: each row is settled under its session's lock.
"""

import logging
from typing import Any

from celery import current_app
from kombu.exceptions import OperationalError

from chat.routing import RUNS_QUEUE
from chat.runs.dispatch import dispatch
from chat.stream.publish import publish
from sessions_app import queries
from sessions_app.failpoints import fail_point
from sessions_app.services.deciding import expire_approvals, expired_approvals
from sessions_app.services.recovering import overdue_runs, recover_run, take_undispatched

logger = logging.getLogger(__name__)

# A message that a worker has fetched is in no queue, though its run is not claimed yet: it is given this long.
FETCHED_SECONDS = 5.0


def dispatch_undispatched() -> None:
    """Dispatch again what no broker took, and what one has lost: its queue is empty, but runs wait for it."""
    for run_id in take_undispatched(older_than_seconds=FETCHED_SECONDS if _is_queue_empty() else None):
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
        if next_run := queries.next_queued_run(recovered.told.session_id):
            dispatch(next_run)


def expire_unanswered_approvals() -> None:
    """Do with approvals that nobody gave in time what the agent types say."""
    for run_id in expired_approvals():
        told = expire_approvals(run_id=run_id)
        if told is None:
            continue
        logger.warning("Run %s: nobody decided about its tool call in time, it has ended", run_id)
        publish(told)
        if next_run := queries.next_queued_run(told.session_id):
            dispatch(next_run)

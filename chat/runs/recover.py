"""Runs that nobody runs any more: sent again if they wait, ended if their worker is gone."""

import logging
from datetime import timedelta

from redis.exceptions import RedisError

from chat.runs.dispatch import dispatch
from chat.stream.publish import publish
from monitoring.workers import DEAD_AFTER_SECONDS, connect, living_workers
from sessions_app import queries
from sessions_app.services.recovering import fail_lost_run, lost_runs
from sessions_app.services.runs import take_undispatched

logger = logging.getLogger(__name__)


def dispatch_undispatched() -> None:
    """Dispatch again what no broker took or what it lost. Safe to run many times at once."""
    for run_id in take_undispatched():
        dispatch(run_id)


def end_lost_runs() -> None:
    """End the runs of workers that send no heartbeats, and let what waits behind them go."""
    try:
        with connect() as redis:
            living = living_workers(redis)
    except RedisError as error:
        logger.warning("Redis does not say which workers live: %s", error)
        return
    for run_id in lost_runs(living_workers=living, grace=timedelta(seconds=DEAD_AFTER_SECONDS)):
        told = fail_lost_run(run_id=run_id)
        if told is None:
            continue
        logger.warning("Run %s: its worker is gone, it has failed", run_id)
        publish(told)
        if next_run := queries.next_queued_run(told.session_id):
            dispatch(next_run)

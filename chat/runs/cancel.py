"""Cancel, in the gateway: the intent is a row, then the worker is hinted, then the stream tells."""

import asyncio
import logging
import uuid
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import redis
from channels.layers import get_channel_layer
from django.dispatch import receiver

from chat.runs.dispatch import dispatch_next
from chat.stream.event import TERMINAL_TYPES
from chat.stream.publish import publish
from chat.stream.tail import tail
from sessions_app import queries
from sessions_app.access import get_session
from sessions_app.cursor import Cursor
from sessions_app.errors import RunNotActiveError, RunNotFoundError
from sessions_app.models import RunStatus
from sessions_app.services.cancelling import request_cancel
from sessions_app.signals import cancel_requested, steering_requested
from sessions_app.threads import on_callers_loop

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cancellation:
    """`pending` runs were asked to stop; what becomes of them comes behind `after`."""

    session_id: uuid.UUID
    pending: frozenset[str]
    after: Cursor


def cancel(*, user: Any, session_id: Any, run_id: uuid.UUID | None = None) -> Cancellation:
    """Stop what is active in a session, or one run of it. Repeating it is harmless.

    Raises SessionNotFoundError, RunNotFoundError, and RunNotActiveError if there was nothing to stop and what
    ended last was not cancelled either.
    """
    session = get_session(user, session_id)
    runs = queries.runs_of(session)
    if run_id is not None and not runs.filter(pk=run_id).exists():
        raise RunNotFoundError()
    after = queries.newest_fact(session.pk)
    result = request_cancel(session=session, run_id=run_id)
    if result.told:
        publish(result.told)
    if result.cancelled:
        dispatch_next(session.pk)
    if not result.cancelled and not result.cancelling:
        last = runs.filter(pk=run_id).first() if run_id else runs.first()
        if last is None or last.status != RunStatus.CANCELLED:
            raise RunNotActiveError()
    return Cancellation(session.pk, frozenset(str(run.pk) for run in result.cancelling), after)


@receiver(cancel_requested)
def hint_cancel(sender: object, session_id: uuid.UUID, worker: str, **kwargs: object) -> None:
    _hint(worker, "cancel", session_id)


@receiver(steering_requested)
def hint_steering(sender: object, session_id: uuid.UUID, worker: str, **kwargs: object) -> None:
    _hint(worker, "steer", session_id)


def _hint(worker: str, type: str, session_id: uuid.UUID) -> None:
    """Tell the worker now; if the hint is lost, its next renewal of leases finds the row."""
    try:
        on_callers_loop(get_channel_layer().send, worker, {"type": type, "session_id": str(session_id)})
    except (redis.RedisError, OSError) as error:
        logger.warning("The hint to %s did not go out: %s", type, error)


async def wait_until_cancelled(cancellation: Cancellation, *, timeout_seconds: float) -> bool:
    """Whether all that was asked to stop has ended within the time."""
    waiting = set(cancellation.pending)
    if not waiting:
        return True
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            aclosing(tail(cancellation.session_id, cancellation.after)) as batches,
        ):
            async for batch in batches:
                for event in batch:
                    if event.type in TERMINAL_TYPES:
                        waiting.discard(event.fields().get("run_id", ""))
                if not waiting:
                    return True
    except TimeoutError:
        pass
    return False

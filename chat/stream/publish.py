"""Putting events into a stream from sync code, where no worker holds the session."""

import logging
from typing import Any

import orjson
import redis
from django.conf import settings

from chat.stream.redis import stream_key
from sessions_app.redis import sync_client
from sessions_app.services.telling import Told

logger = logging.getLogger(__name__)


def publish(told: Told) -> None:
    """Put events that are on record into the stream; where Redis fails them, a tail reads them as facts."""
    key = stream_key(told.session_id)
    try:
        for event in told.events:
            entry: Any = {"t": event.type, "d": orjson.dumps(event.data)}
            sync_client().xadd(key, entry, id=f"{told.epoch}-{event.seq}")
        sync_client().expire(key, settings.STREAM_TTL_SECONDS)
    except redis.RedisError as error:
        logger.warning("Redis does not take what was told without a worker: %s", error)

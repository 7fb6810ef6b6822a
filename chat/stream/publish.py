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
        with sync_client().pipeline(transaction=False) as pipeline:
            for event in told.events:
                entry: Any = {"t": event.type, "d": orjson.dumps(event.data)}
                pipeline.xadd(key, entry, id=f"{told.epoch}-{event.seq}")
            pipeline.expire(key, settings.STREAM_TTL_SECONDS)
            pipeline.execute()
    except redis.RedisError as error:
        logger.warning("Redis does not take what was told without a worker: %s", error)

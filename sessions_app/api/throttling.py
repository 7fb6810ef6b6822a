"""Requests per minute and caller, counted in Redis: one round trip a request."""

import logging
import time
from typing import Any

from django.conf import settings
from redis.exceptions import RedisError
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from sessions_app.redis import note_answer, sync_client

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60


class RequestRateThrottle(BaseThrottle):
    """A fixed window of a minute. With Redis down everybody passes: a limit must not be an outage."""

    def allow_request(self, request: Request, view: Any) -> bool:
        now = time.time()
        self._wait_seconds = WINDOW_SECONDS - now % WINDOW_SECONDS
        user = request.user
        if user and user.is_authenticated:
            caller, limit = f"user:{user.pk}", settings.REQUESTS_PER_MINUTE
        else:
            caller, limit = f"ip:{self.get_ident(request)}", settings.ANONYMOUS_REQUESTS_PER_MINUTE
        key = f"agentsite:rate:{caller}:{int(now // WINDOW_SECONDS)}"
        try:
            count = sync_client().incr(key)
            if count == 1:
                sync_client().expire(key, 2 * WINDOW_SECONDS)
        except RedisError as error:
            logger.warning("Redis does not count requests, so they pass: %s", error)
            return True
        note_answer()
        return bool(count <= limit)

    def wait(self) -> float:
        return self._wait_seconds

"""Rates: requests a minute by token buckets, tool calls of a session by a sliding window of a minute.

Redis decides, one script a decision (lua/), by its own clock: exact, whatever number of processes ask. While it is down
everybody passes: a rate is no money, and a limit must not be an outage.
"""

import asyncio
import ipaddress
import logging
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

from monitoring.models import Measure
from monitoring.quotas import limits_of, lowest
from sessions_app.errors import RateLimitedError
from sessions_app.redis import note_answer, sync_client
from sessions_app.services.tokens import Bearer

logger = logging.getLogger(__name__)

PREFIX = "agentsite:rate:"
MAX_LIMIT = 10**8  # the arithmetic stays exact up to here
ANSWER_SECONDS = 1.0  # a tool call waits no longer for Redis
PAUSE_SECONDS = 5.0  # Redis has failed: nobody waits for it again so soon
TOLD_SECONDS = 60.0  # between two words about that
_LUA = Path(__file__).parent / "lua"
_REQUESTS = (_LUA / "requests.lua").read_text()
_TOOL_CALLS = (_LUA / "tool_calls.lua").read_text()


@dataclass(frozen=True)
class Decision:
    """About one request, by the tightest of its buckets. `reset_seconds` until that is full again; refused: until the
    next one passes, as `wait_seconds`."""

    limit: int
    remaining: int
    reset_seconds: float
    wait_seconds: float = 0.0

    @property
    def is_allowed(self) -> bool:
        return self.wait_seconds == 0

    @property
    def retry_after(self) -> str:
        return str(math.ceil(self.wait_seconds))

    @property
    def headers(self) -> dict[str, str]:
        """By the IETF's draft on rate limit fields."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(math.ceil(self.reset_seconds)),
        }


class _Outage:
    """Redis did not answer this process."""

    until = float("-inf")
    told_at = float("-inf")

    @classmethod
    def is_on(cls) -> bool:
        return time.monotonic() < cls.until

    @classmethod
    def note(cls, error: Exception) -> None:
        now = time.monotonic()
        cls.until = now + PAUSE_SECONDS
        if now - cls.told_at > TOLD_SECONDS:
            cls.told_at = now
            logger.warning("Redis does not count requests and tool calls, so they pass: %s", error)


# --- requests --------------------------------------------------------------------------------------------------------


def caller_buckets(user: Any, bearer: Bearer | None) -> dict[str, int]:
    """Whom a request of a user counts for, with the limits: the user, and the token if that has one of its own."""
    subject = f"user:{user.pk}"
    limit = lowest(limits_of(Measure.REQUESTS), subject)
    buckets = {subject: settings.REQUESTS_PER_MINUTE if limit is None else limit}
    if bearer is not None and bearer.requests_per_minute is not None:
        buckets[f"token:{bearer.token_id}"] = bearer.requests_per_minute
    return buckets


def address_buckets(address: str) -> dict[str, int]:
    """Whom a request without a user counts for. Who has IPv6 has a whole network of addresses: it counts as one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        pass
    else:
        if found.version == 6:
            address = str(ipaddress.ip_network((found, 64), strict=False))
    return {f"ip:{address}": settings.ANONYMOUS_REQUESTS_PER_MINUTE}


def take_request(buckets: Mapping[str, int]) -> Decision | None:
    """Take a request from all buckets, or from none if one of them is empty; None if nobody knows."""
    if _Outage.is_on():
        return None
    script = sync_client().register_script(_REQUESTS)
    limits = [min(limit, MAX_LIMIT) for limit in buckets.values()]
    try:
        wait, limit, remaining, full = script(keys=[PREFIX + name for name in buckets], args=limits)
    except RedisError as error:
        _Outage.note(error)
        return None
    note_answer()
    return Decision(limit, remaining, full / 1e6, wait / 1e6)


def admit_request(user: Any, bearer: Bearer | None) -> None:
    """Count a request that is none of HTTP; raises RateLimitedError."""
    decision = take_request(caller_buckets(user, bearer))
    if decision is not None and not decision.is_allowed:
        raise RateLimitedError(retry_after_seconds=math.ceil(decision.wait_seconds))


# --- tool calls ------------------------------------------------------------------------------------------------------


def tool_call_limit(session_id: uuid.UUID) -> int | None:
    """Calls a minute in this session; None: there is no limit."""
    return lowest(limits_of(Measure.TOOL_CALLS), f"session:{session_id}")


async def take_tool_calls(
    redis: AsyncRedis, session_id: uuid.UUID, call_ids: Sequence[str], *, limit: int
) -> list[float]:
    """Count those calls that may start now. For each 0, or the seconds until there may be room, infinite if never."""
    if _Outage.is_on():
        return [0.0] * len(call_ids)
    script = redis.register_script(_TOOL_CALLS)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            waits = await script(keys=[f"{PREFIX}tools:{session_id}"], args=[min(limit, MAX_LIMIT), *call_ids])
    except (RedisError, OSError) as error:
        _Outage.note(error)
        return [0.0] * len(call_ids)
    return [math.inf if wait < 0 else wait / 1_000 for wait in waits]

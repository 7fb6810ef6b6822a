"""Is every part there? In neutral words: a health page is public."""

import asyncio
import logging
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connection

from monitoring.models import Measure
from monitoring.quotas import limits_of, lowest
from monitoring.workers import connect, living_workers
from sessions_app.models import Run
from sessions_app.models.run import ACTIVE_STATUSES

logger = logging.getLogger(__name__)

NEEDED = ("database", "redis", "celery")
MODEL_TIMEOUT_SECONDS = 2.0
CHANNEL_TIMEOUT_SECONDS = 2.0
MODEL_CACHE_SECONDS = 30.0

_model_seen: tuple[float, dict[str, Any]] | None = None  # monotonic seconds, what was found then


def check_all() -> dict[str, Any]:
    """Each part's state; `status` is degraded if any part fails."""
    checks: dict[str, Any] = {
        "database": _timed(_check_database),
        "redis": _timed(_check_redis),
        "llm": _check_model(),
        "celery": _timed(_check_workers),
        "channel_layer": _timed(_check_channel_layer),
    }
    is_well = all(check["status"] in ("ok", "not_configured") for check in checks.values())
    checks["sessions"] = {"active": _active_sessions(), "max": _max_sessions()}
    return {"status": "healthy" if is_well else "degraded", "checks": checks}


def is_serving(report: dict[str, Any]) -> bool:
    """Whether all parts are there that nothing works without."""
    return all(report["checks"][name]["status"] == "ok" for name in NEEDED)


def _timed(check: Callable[[], None]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        check()
    except Exception as error:  # whatever a driver raises, the part is down
        logger.warning("Health check %s: %s", check.__name__, str(error).partition("\n")[0])
        return {"status": "down"}
    return {"status": "ok", "latency_ms": round((time.perf_counter() - started) * 1_000, 1)}


def _check_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _check_redis() -> None:
    with connect() as redis:
        redis.ping()


def _check_workers() -> None:
    with connect() as redis:
        if not living_workers(redis):
            raise RuntimeError("no worker has sent a heartbeat")


def _check_channel_layer() -> None:
    layer = get_channel_layer()

    async def send() -> None:
        # Not received: the message expires by itself, and a receive that is given up wedges its process's others.
        async with asyncio.timeout(CHANNEL_TIMEOUT_SECONDS):
            await layer.send(await layer.new_channel("health"), {"type": "health"})

    async_to_sync(send)()


def _check_model() -> dict[str, Any]:
    """The model's server, asked at most each MODEL_CACHE_SECONDS."""
    global _model_seen
    if not settings.AGENT_MODEL:
        return {"status": "not_configured"}
    if _model_seen is None or time.monotonic() - _model_seen[0] > MODEL_CACHE_SECONDS:
        _model_seen = time.monotonic(), _timed(_ask_model_server)
    return _model_seen[1]


def _ask_model_server() -> None:
    base = settings.OPENAI_BASE_URL or "https://api.openai.com/v1"
    headers = {"Authorization": f"Bearer {settings.OPENAI_API_KEY}"} if settings.OPENAI_API_KEY else {}
    request = urllib.request.Request(f"{base}/models", headers=headers)
    with urllib.request.urlopen(request, timeout=MODEL_TIMEOUT_SECONDS) as response:
        response.read(1)


def _active_sessions() -> int | None:
    try:
        return Run.objects.filter(status__in=ACTIVE_STATUSES).values("session").distinct().count()
    except Exception:  # the database's own check tells of it
        return None


def _max_sessions() -> int | None:
    """How many may be at work at once; None: there is no limit, or nobody knows."""
    try:
        return lowest(limits_of(Measure.CONCURRENT_RUNS), "site")
    except Exception:  # the same
        return None

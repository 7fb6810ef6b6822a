"""Rates are exact: across processes, whatever their clocks say, and when Redis loses everything."""

import asyncio
import math
import subprocess
import sys
import time
import uuid
from typing import Any

import pytest
from redis.asyncio import Redis as AsyncRedis

from monitoring import rates
from monitoring.models import Measure, Quota
from monitoring.quotas import forget
from monitoring.rates import address_buckets, caller_buckets, take_request, take_tool_calls, tool_call_limit
from sessions_app.redis import sync_client
from sessions_app.services.tokens import Bearer
from tests.fakes.processes import PROJECT


@pytest.fixture
def bucket() -> str:
    return f"test:{uuid.uuid4()}"


@pytest.fixture
def no_redis(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(rates, "sync_client", sync_client.__wrapped__)  # not the one that is connected
    monkeypatch.setattr(rates._Outage, "until", -math.inf)
    monkeypatch.setattr(rates._Outage, "told_at", -math.inf)


def taken(bucket: str, limit: int) -> bool:
    decision = take_request({bucket: limit})
    assert decision is not None
    return decision.is_allowed


# --- requests --------------------------------------------------------------------------------------------------------


def test_no_process_passes_what_another_has_taken(bucket: str) -> None:
    """3 processes of 8 threads, with clocks an hour and a day apart: what the bucket gives, no more and no less."""
    limit, seconds = 1_200, 4.0
    argv = [sys.executable, "-m", "tests.monitoring.taking", bucket, str(limit), "8", str(seconds)]
    began = [
        subprocess.Popen([*argv, shift], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        for shift in ("0", "3600", "-86400")
    ]
    lines = [line for process in began for line in process.communicate(timeout=60)[0].splitlines()]
    assert [process.returncode for process in began] == [0] * 3
    grants = [(float(before), float(after)) for before, after in map(str.split, lines)]
    befores, afters = sorted(grant[0] for grant in grants), sorted(grant[1] for grant in grants)
    for first in range(0, len(grants), 7):
        count = 0
        for number, after in enumerate(afters):
            # Those that began after `first` and ended until `after` lie between the two.
            count = number + 1 - first
            if count > 0:
                assert count <= limit + math.ceil((after - befores[first]) * limit / 60) + 1
    elapsed = afters[-1] - befores[0]
    assert abs(len(grants) - (limit + elapsed * limit / 60)) <= 0.1 * limit / 60 + 1  # a tenth of a second


def test_a_bucket_fills_again_evenly(bucket: str) -> None:
    assert [taken(bucket, 60) for _ in range(61)] == [True] * 60 + [False]
    refused = take_request({bucket: 60})
    assert refused is not None
    assert 0 < refused.wait_seconds <= 1
    assert refused.headers == {"RateLimit-Limit": "60", "RateLimit-Remaining": "0", "RateLimit-Reset": "1"}
    deadline = time.monotonic() + refused.wait_seconds
    while not taken(bucket, 60):
        assert time.monotonic() < deadline + 0.5
    assert time.monotonic() >= deadline - 0.05
    assert not taken(bucket, 60)


@pytest.mark.parametrize("limit", [1, 7, 999_983, 10**12])
def test_whatever_the_limit_nothing_is_rounded(limit: int, bucket: str) -> None:
    first = take_request({bucket: limit})
    assert first is not None
    assert first.is_allowed
    assert first.remaining == min(limit, rates.MAX_LIMIT) - 1
    kept = sync_client().get(rates.PREFIX + bucket)
    assert kept is not None
    assert int(kept.split()[0]) == 60_000_000


def test_a_limit_of_nothing_lets_nobody_pass(bucket: str) -> None:
    refused = take_request({bucket: 0})
    assert refused is not None
    assert (refused.is_allowed, refused.retry_after) == (False, "60")


def test_all_or_nothing_is_taken(bucket: str) -> None:
    for _ in range(5):
        take_request({bucket: 10, f"{bucket}:small": 2})
    decision = take_request({bucket: 10})
    assert decision is not None
    assert decision.remaining == 10 - 2 - 1


def test_the_tightest_bucket_speaks(bucket: str) -> None:
    decision = take_request({bucket: 100, f"{bucket}:small": 5})
    assert decision is not None
    assert (decision.limit, decision.remaining) == (5, 4)


def test_a_limit_that_is_lowered_counts_what_was_taken(bucket: str) -> None:
    assert all(taken(bucket, 100) for _ in range(10))
    assert not taken(bucket, 5)
    assert taken(bucket, 100)


def test_redis_may_forget_everything(bucket: str) -> None:
    assert [taken(bucket, 2) for _ in range(3)] == [True, True, False]
    sync_client().flushall()
    sync_client().script_flush()
    assert [taken(bucket, 2) for _ in range(3)] == [True, True, False]


def test_a_clock_that_goes_back_locks_nobody_out(bucket: str) -> None:
    tomorrow = (int(time.time()) + 86_400) * 1_000_000
    sync_client().set(rates.PREFIX + bucket, f"{5 * 60_000_000} {tomorrow}")
    assert taken(bucket, 5)


def test_an_idle_bucket_leaves_nothing_behind(bucket: str) -> None:
    take_request({bucket: 60})
    assert 0 < sync_client().pttl(rates.PREFIX + bucket) <= 2_000


def test_without_redis_everybody_passes_and_it_is_said_once(
    no_redis: None, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert [take_request({bucket: 1}) for _ in range(100)] == [None] * 100
    assert len(caplog.records) == 1


@pytest.mark.django_db
def test_a_quota_replaces_the_setting(user: Any, settings: Any) -> None:
    settings.REQUESTS_PER_MINUTE = 100
    subject = f"user:{user.pk}"
    assert caller_buckets(user, None) == {subject: 100}
    for name, limit, target in (("each", 500, None), ("one", 200, user)):
        Quota.objects.create(
            name=name, scope="user", user=target, measure=Measure.REQUESTS, period="minute", limit=limit
        )
    forget()
    assert caller_buckets(user, None) == {subject: 200}
    assert caller_buckets(user, Bearer(user, 7, 5)) == {subject: 200, "token:7": 5}
    forget()


def test_a_network_of_addresses_is_one_caller() -> None:
    assert address_buckets("2001:db8::1") == address_buckets("2001:db8::ffff:1")
    assert address_buckets("2001:db8::1") != address_buckets("2001:db8:0:1::1")
    assert address_buckets("192.0.2.1") != address_buckets("192.0.2.2")


# --- tool calls ------------------------------------------------------------------------------------------------------


def take_tools(session_id: uuid.UUID, *calls: str, limit: int) -> list[float]:
    async def take() -> list[float]:
        async with AsyncRedis(**_address()) as redis:
            return await take_tool_calls(redis, session_id, calls, limit=limit)

    return asyncio.run(take())


def _address() -> dict[str, Any]:
    options = sync_client().connection_pool.connection_kwargs
    return {"unix_socket_path": options["path"], "db": options.get("db", 0)}


def test_a_minute_has_no_more_tool_calls_than_the_limit() -> None:
    session = uuid.uuid4()
    waits = take_tools(session, "a", "b", "c", "d", limit=3)
    assert waits[:3] == [0, 0, 0]
    assert 59 < waits[3] <= 60
    key = f"{rates.PREFIX}tools:{session}"
    for call, age in (("a", 59.5), ("b", 61)):
        sync_client().zincrby(key, -age * 1_000_000, call)
    assert take_tools(session, "d", limit=3) == [0]
    (wait,) = take_tools(session, "e", limit=3)
    assert 0 < wait <= 0.5  # until a is a minute old
    assert take_tools(uuid.uuid4(), "a", limit=3) == [0]


def test_a_call_is_counted_once() -> None:
    session = uuid.uuid4()
    assert take_tools(session, "a", "a", limit=1) == [0, 0]
    assert take_tools(session, "a", limit=1) == [0]
    assert take_tools(session, "b", limit=1)[0] > 0


def test_no_calls_at_all_may_be_allowed() -> None:
    assert take_tools(uuid.uuid4(), "a", limit=0) == [math.inf]


def test_processes_share_the_places() -> None:
    """24 at once, as many runs of one session: whoever asks, 10 places are given."""
    session = uuid.uuid4()

    async def take_all() -> list[list[float]]:
        clients = [AsyncRedis(**_address()) for _ in range(24)]
        try:
            asked = [
                take_tool_calls(redis, session, [f"{n}:{i}" for i in range(2)], limit=10)
                for n, redis in enumerate(clients)
            ]
            return await asyncio.gather(*asked)
        finally:
            await asyncio.gather(*(redis.aclose() for redis in clients))

    waits = [wait for found in asyncio.run(take_all()) for wait in found]
    assert waits.count(0) == 10


def test_without_redis_tools_go_on(no_redis: None) -> None:
    async def take() -> list[float]:
        async with AsyncRedis(host="127.0.0.1", port=1) as redis:
            return await take_tool_calls(redis, uuid.uuid4(), ["a", "b"], limit=1)

    assert asyncio.run(take()) == [0, 0]


@pytest.mark.django_db
def test_one_session_may_have_a_limit_of_its_own(user: Any) -> None:
    session = uuid.uuid4()
    forget()
    assert tool_call_limit(session) == 60  # MAX_TOOL_CALLS_PER_MINUTE
    Quota.objects.update(is_enabled=False)
    forget()
    assert tool_call_limit(session) is None
    forget()

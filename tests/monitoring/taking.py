"""A process whose threads take requests from one bucket as fast as they can, and tell when each was granted.

`python -m tests.monitoring.taking <bucket> <limit> <threads> <seconds> <clock shift>`: a line `<before> <after>` for
each grant, by the machine's clock. The process itself believes in a clock that is shifted.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentsite.settings")

import django

django.setup()

from monitoring.rates import take_request  # noqa: E402
from sessions_app.redis import sync_client  # noqa: E402


def now() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME)


def take(bucket: str, limit: int, until: float) -> list[tuple[float, float]]:
    grants = []
    while (before := now()) < until:
        decision = take_request({bucket: limit})
        assert decision is not None
        if decision.is_allowed:
            grants.append((before, now()))
    return grants


def main(bucket: str, limit: str, threads: str, seconds: str, shift: str) -> None:
    time.time = lambda: now() + float(shift)
    with closing(sync_client()), ThreadPoolExecutor(int(threads)) as pool:
        until = now() + float(seconds)
        for grants in pool.map(lambda _: take(bucket, int(limit), until), range(int(threads))):
            for before, after in grants:
                print(before, after)


if __name__ == "__main__":
    main(*sys.argv[1:])

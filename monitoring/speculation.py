"""What was done before it was known to be needed: how much of it was used, and how much wasted."""

from collections import Counter

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

KEY = "agentsite:speculation"  # hash: "<kind>:<outcome>" -> count
USED, WASTED = "used", "wasted"


class SpeculationCounter:
    """Of one process; what it has counted is added to the site's counts now and then."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, kind: str, outcome: str, number: int = 1) -> None:
        if number:
            self._counts[f"{kind}:{outcome}"] += number

    async def flush(self, redis: AsyncRedis) -> None:
        counts, self._counts = self._counts, Counter()
        for field, number in counts.items():
            await redis.hincrby(KEY, field, number)


speculation = SpeculationCounter()


def read_speculation(redis: Redis) -> dict[tuple[str, str], int]:
    """(kind, outcome) -> count, of the whole site since Redis began to keep it."""
    found = redis.hgetall(KEY)
    return {_names(field): int(number) for field, number in found.items()}


def _names(field: bytes | str) -> tuple[str, str]:
    kind, _, outcome = (field.decode() if isinstance(field, bytes) else field).partition(":")
    return kind, outcome

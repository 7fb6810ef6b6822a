"""The limits in force, as each process knows them: read from Postgres, at most KEPT_SECONDS old."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from monitoring.models import Measure, Quota

KEPT_SECONDS = 2.0


@dataclass(frozen=True)
class Limit:
    """One quota that is not a budget. `target` is the id of what it is of, as text; None: of each of its scope."""

    name: str
    scope: str
    target: str | None
    limit: int

    def holds_for(self, subject: str) -> bool:
        """Whether it limits a subject such as `user:5`."""
        return subject == self.subject if self.target else subject.partition(":")[0] == self.scope

    @property
    def subject(self) -> str:
        """Whom it is of; `user:*` is each user."""
        return self.scope if self.scope == "site" else f"{self.scope}:{self.target or '*'}"


class _Known:
    """What was read last, by measure."""

    lock = Lock()
    until = 0.0
    limits: dict[str, tuple[Limit, ...]] = {}


def limits_of(measure: Measure) -> tuple[Limit, ...]:
    """The enabled limits of a measure that is not a budget."""
    with _Known.lock:
        if time.monotonic() > _Known.until:
            _Known.limits = _read()
            _Known.until = time.monotonic() + KEPT_SECONDS
        return _Known.limits.get(measure, ())


def forget() -> None:
    """A quota has changed here: read them again."""
    _Known.until = 0.0


def lowest(limits: Iterable[Limit], subject: str) -> int | None:
    """The lowest of those that hold for a subject; None if none does."""
    return min((limit.limit for limit in limits if limit.holds_for(subject)), default=None)


def subjects_of(*, owner_id: int, agent_type_id: int, group_ids: Iterable[int] = ()) -> list[str]:
    """Whom a run's concurrency counts for."""
    groups = [f"group:{group_id}" for group_id in sorted(group_ids)]
    return ["site", f"user:{owner_id}", f"agent_type:{agent_type_id}", *groups]


def _read() -> dict[str, tuple[Limit, ...]]:
    found: dict[str, list[Limit]] = {}
    measures = (Measure.CONCURRENT_RUNS, Measure.TOOL_CALLS, Measure.REQUESTS)
    for quota in Quota.objects.filter(is_enabled=True, measure__in=measures).exclude(action="warn"):
        target = None if quota.target_id is None else str(quota.target_id)
        found.setdefault(quota.measure, []).append(Limit(quota.name, quota.scope, target, int(quota.limit)))
    return {measure: tuple(limits) for measure, limits in found.items()}

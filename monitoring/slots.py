"""Concurrency slots: a run at work holds one, within the limits of the site, its user, its groups and its agent type.

Redis decides, one script a decision (lua/slots.lua), and forgets by itself what nobody renews. Postgres stays the
truth: what Redis lost is rebuilt from the runs that are at work there.

Everything raises RedisError if Redis cannot be asked. Runs that are `granted` are the caller's to dispatch.
"""

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from django.conf import settings
from redis.commands.core import Script
from redis.exceptions import RedisError

from monitoring.models import Measure
from monitoring.quotas import limits_of, subjects_of
from sessions_app import queries
from sessions_app.queries import Placement
from sessions_app.redis import note_answer, sync_client

PREFIX = "agentsite:slots:"
GRANT_SECONDS = 60  # until its worker claims a run that got a slot
CLAIM_SECONDS = 0.1  # a claim that was confirmed before the state was lost is on record by then
SHOWN_POSITIONS = 200
_TRIES = 3
_SOURCE = (Path(__file__).parent / "lua" / "slots.lua").read_text()


@dataclass(frozen=True)
class Acquired:
    """`position` in the queue, from 1, if the run has to wait."""

    position: int | None
    granted: list[uuid.UUID]

    @property
    def is_granted(self) -> bool:
        return self.position is None


@dataclass(frozen=True)
class Swept:
    """`late` runs have waited too long and wait no more. `waiting` are all that still do; the places of those that have
    waited longest are in `positions`."""

    granted: list[uuid.UUID]
    late: list[uuid.UUID]
    waiting: list[uuid.UUID]
    positions: dict[uuid.UUID, int]


def lane_of(placement: Placement) -> str:
    """Whom a run counts for; the runs of one lane fit or do not fit together."""
    subjects = subjects_of(
        owner_id=placement.owner_id, agent_type_id=placement.agent_type_id, group_ids=placement.group_ids
    )
    return ",".join(subjects)


def acquire(run_id: uuid.UUID, lane: str) -> Acquired:
    """A slot for a run that is about to be dispatched, or its place in the queue. Harmless if repeated."""
    answer = _decide("acquire", run=str(run_id), lane=lane, seconds=GRANT_SECONDS)
    return Acquired(answer.get("position"), [run for run in _ids(answer, "granted") if run != run_id])


def confirm(run_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, str]:
    """A worker is about to claim these runs: their slots now last as long as the lease. The lanes of those that have a
    slot."""
    answer = _decide("confirm", runs=[str(run_id) for run_id in run_ids], seconds=_lease_seconds())
    lanes: Mapping[str, str] = answer["lanes"] or {}  # an empty table of Lua is {} or [] in JSON
    return {uuid.UUID(run): lane for run, lane in lanes.items()}


def renew(lanes: Mapping[uuid.UUID, str]) -> list[uuid.UUID]:
    """These runs are still at work; those whose slot is gone get it back, whatever the limits. Returns the granted."""
    return _ids(_decide("renew", runs=_named(lanes), **_seconds()), "granted")


def release(run_id: uuid.UUID) -> list[uuid.UUID]:
    """The run is at work no more, or waits no more. Returns the granted."""
    return _ids(_decide("release", run=str(run_id), grant_seconds=GRANT_SECONDS), "granted")


def sweep() -> Swept:
    """Compare with Postgres, and end the waiting of what has waited for SLOT_WAIT_SECONDS."""
    answer = _decide(
        "sweep", runs=_at_work(), **_seconds(), wait_seconds=settings.SLOT_WAIT_SECONDS, limit=SHOWN_POSITIONS
    )
    positions = {uuid.UUID(run): int(position) for run, position in answer["positions"]}
    return Swept(_ids(answer, "granted"), _ids(answer, "late"), _ids(answer, "waiting"), positions)


def count_slots() -> dict[str, int]:
    """How many slots are held, and how many runs wait for one."""
    redis: Any = sync_client()
    return {"held": redis.zcard(f"{PREFIX}held"), "waiting": redis.zcard(f"{PREFIX}waiting")}


# --- asking ----------------------------------------------------------------------------------------------------------


def _decide(operation: str, **arguments: Any) -> dict[str, Any]:
    for _ in range(_TRIES):
        answer = _ask(operation, **arguments)
        if not answer.get("lost"):
            note_answer()
            return answer
        time.sleep(CLAIM_SECONDS)
        _ask("rebuild", runs=_at_work(), seconds=_lease_seconds())
    raise RedisError("Redis loses the slots as soon as they are there.")


def _ask(operation: str, **arguments: Any) -> dict[str, Any]:
    arguments["outage_seconds"] = settings.RUN_LEASE_SECONDS / 2
    answer: Any = _script()(keys=[PREFIX], args=[operation, _limits(), orjson.dumps(arguments)])
    return dict(orjson.loads(answer))


@cache
def _script() -> Script:
    return sync_client().register_script(_SOURCE)


def _limits() -> bytes:
    """The lowest limit of each subject: `user:5` for one, `user:*` for each."""
    lowest: dict[str, int] = {}
    for limit in limits_of(Measure.CONCURRENT_RUNS):
        lowest[limit.subject] = min(limit.limit, lowest.get(limit.subject, limit.limit))
    return orjson.dumps(lowest)


def _lease_seconds() -> int:
    """By then whoever held the slot has lost the run, which by its lease is another's."""
    return 2 * settings.RUN_LEASE_SECONDS


def _seconds() -> dict[str, int]:
    return {"seconds": _lease_seconds(), "grant_seconds": GRANT_SECONDS}


def _at_work() -> dict[str, str]:
    return {str(run_id): lane_of(placement) for run_id, placement in queries.placements_at_work().items()}


def _named(lanes: Mapping[uuid.UUID, str]) -> dict[str, str]:
    return {str(run_id): lane for run_id, lane in lanes.items()}


def _ids(answer: Mapping[str, Any], name: str) -> list[uuid.UUID]:
    found: Iterable[str] = answer.get(name) or ()  # an empty table of Lua is {} in JSON
    return [uuid.UUID(run) for run in found]

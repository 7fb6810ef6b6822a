"""How a worker comes by a run and keeps it: the claim under a new epoch, its lease, and giving it back.

The claim is on the way to the first token, so it is one SQL statement, also for several runs
(docs/decisions/0003-sql-on-the-hot-path.md).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from django.conf import settings
from django.db import connection

from sessions_app.agent_config import AgentConfig


@dataclass(frozen=True)
class Claim:
    """A worker's right to write in a session: valid while the session's epoch is this one.

    `is_resumed` says that the run had been claimed before; `agent_state` is then what its agent left behind when it
    was parked. `state` is the session's state document.
    """

    run_id: uuid.UUID
    session_id: uuid.UUID
    epoch: int
    turn: int
    attempt: int
    is_resumed: bool
    agent: AgentConfig
    state: dict[str, Any]
    agent_state: Any = None
    queue_ms: int | None = None  # how long the run had waited when it was first claimed
    worked_ms: int = 0  # how long the session's runs were at work before
    is_told: bool = False  # that of its message was told while it waited for a slot


# The sessions' rows are locked first, so that each one's epoch is the newest, and in one order, so that two workers
# do not wait for each other; a run's own row is checked again by Postgres if it changed meanwhile. A run waits for
# those before it in its session. now() is the transaction's, so `started_at` equals it in the first claim only. The
# agent type's version is the first claim's, whatever is edited.
_CLAIM = """
WITH locked AS (
    SELECT s.id, s.epoch, a.version
    FROM sessions_app_agentsession s JOIN sessions_app_agenttype a ON a.id = s.agent_type_id
    WHERE s.id IN (SELECT session_id FROM sessions_app_run WHERE id = ANY(%(run_ids)s)) AND s.deleted_at IS NULL
    ORDER BY s.id FOR UPDATE OF s
), claimed AS (
    UPDATE sessions_app_run r
    SET status = 'running', epoch = locked.epoch + 1, attempt = r.attempt + 1, worker = %(worker)s,
        started_at = COALESCE(r.started_at, now()), claimed_at = clock_timestamp(),
        agent_version = COALESCE(r.agent_version, locked.version),
        lease_expires_at = clock_timestamp() + %(lease_seconds)s * interval '1 second'
    FROM locked
    WHERE r.id = ANY(%(run_ids)s) AND r.session_id = locked.id AND r.status = 'queued'
      AND NOT EXISTS (
        SELECT 1 FROM sessions_app_run o
        WHERE o.session_id = r.session_id AND o.id <> r.id
          AND (o.status IN ('running', 'awaiting_approval') OR (o.status = 'queued' AND o.turn < r.turn)))
    RETURNING r.id, r.session_id, r.epoch, r.turn, r.attempt, r.started_at <> now() AS is_resumed,
        r.agent_version, r.agent_state,
        CASE WHEN r.started_at = now() THEN (extract(epoch FROM now() - r.created_at) * 1000)::int END AS queue_ms,
        r.waiting_position IS NOT NULL AS is_told
)
UPDATE sessions_app_agentsession s SET epoch = claimed.epoch
FROM claimed, sessions_app_agenttypeversion v
WHERE s.id = claimed.session_id AND v.agent_type_id = s.agent_type_id AND v.version = claimed.agent_version
RETURNING claimed.id, claimed.session_id, claimed.epoch, claimed.turn, claimed.attempt, claimed.is_resumed, s.state,
    v.config, claimed.agent_state, claimed.queue_ms, s.worked_ms, claimed.is_told
"""


def claim_runs(*, run_ids: Sequence[uuid.UUID], worker: str) -> list[Claim]:
    """Take those of the queued runs that are first in their sessions, each under a new epoch; in the order given."""
    values: dict[str, Any] = {
        "run_ids": list(run_ids),
        "worker": worker,
        "lease_seconds": settings.RUN_LEASE_SECONDS,
    }
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, values)
        claims = {row[0]: _as_claim(*row) for row in cursor.fetchall()}
    return [claims[run_id] for run_id in dict.fromkeys(run_ids) if run_id in claims]


def claim_run(*, run_id: uuid.UUID, worker: str) -> Claim | None:
    """Take a queued run; None if it is not to be had."""
    return next(iter(claim_runs(run_ids=[run_id], worker=worker)), None)


def _as_claim(
    run_id: uuid.UUID,
    session_id: uuid.UUID,
    epoch: int,
    turn: int,
    attempt: int,
    is_resumed: bool,
    state: str,
    config: str,
    agent_state: str | None,
    *others: Any,
) -> Claim:
    agent = AgentConfig.from_json(orjson.loads(config))
    saved = None if agent_state is None else orjson.loads(agent_state)
    return Claim(run_id, session_id, epoch, turn, attempt, is_resumed, agent, orjson.loads(state), saved, *others)


@dataclass(frozen=True)
class Renewed:
    """A run that is still its worker's, and what people want of it."""

    run_id: uuid.UUID
    is_cancel_requested: bool
    is_steered: bool


_RENEW = """
UPDATE sessions_app_run r SET lease_expires_at = clock_timestamp() + %(lease_seconds)s * interval '1 second'
FROM unnest(%(run_ids)s::uuid[], %(epochs)s::bigint[]) AS held(id, epoch)
WHERE r.id = held.id AND r.epoch = held.epoch AND r.status = 'running'
RETURNING r.id, r.cancel_requested_at IS NOT NULL, EXISTS (
    SELECT 1 FROM sessions_app_run o WHERE o.session_id = r.session_id AND o.status = 'queued' AND o.is_steering)
"""


def renew_leases(*, claims: Sequence[Claim]) -> list[Renewed]:
    """Renew the leases of all of a worker's runs in one statement; those missing in the answer are lost to it."""
    with connection.cursor() as cursor:
        cursor.execute(
            _RENEW,
            {
                "run_ids": [claim.run_id for claim in claims],
                "epochs": [claim.epoch for claim in claims],
                "lease_seconds": settings.RUN_LEASE_SECONDS,
            },
        )
        return [Renewed(*row) for row in cursor.fetchall()]


_GIVE_BACK = """
WITH held AS (
    UPDATE sessions_app_agentsession s
    SET worked_ms = s.worked_ms
        + COALESCE(GREATEST(extract(epoch FROM clock_timestamp() - r.claimed_at) * 1000, 0), 0)::bigint
    FROM sessions_app_run r
    WHERE s.id = %(session_id)s AND s.epoch = %(epoch)s AND r.id = %(run_id)s AND r.status = 'running'
    RETURNING s.id
)
UPDATE sessions_app_run r
SET status = 'queued', attempt = GREATEST(r.attempt - 1, 0), lease_expires_at = NULL, dispatched_at = clock_timestamp()
FROM held WHERE r.id = %(run_id)s AND r.status = 'running'
"""


def give_back(*, claim: Claim) -> bool:
    """Hand a run over to whoever claims it next, without charging the attempt; False if it is another's already."""
    with connection.cursor() as cursor:
        values: dict[str, Any] = {"session_id": claim.session_id, "epoch": claim.epoch, "run_id": claim.run_id}
        cursor.execute(_GIVE_BACK, values)
        return bool(cursor.rowcount == 1)

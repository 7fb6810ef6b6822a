"""One of several processes that send messages and work on runs, as gateways and workers do, and look whether a limit is
passed: what Postgres says to be at work, with a living lease, is what counts.

`python -m tests.monitoring.slot_load SEED` prints what it has counted, as JSON, when its standard input is closed.
"""

import base64
import json
import random
import sys
import threading
import time
import uuid
from collections import Counter
from typing import Any

import django
from django.db import connection

THREADS = 8
SENDING_SECONDS = 3.0
LIMITS = {"site": 6, "user": 3, "agent_type": 4}
LEASE_SECONDS = 2
QUEUE = "agentsite:runs"  # the broker's own

_AT_WORK = """
SELECT s.owner_id, s.agent_type_id FROM sessions_app_run r JOIN sessions_app_agentsession s ON s.id = r.session_id
WHERE r.status = 'running' AND r.lease_expires_at > clock_timestamp()
"""


class Party:
    """One thread: a client that sends, and a worker."""

    def __init__(self, seed: int, sessions: list[Any], is_over: threading.Event) -> None:
        self.tally: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._sessions = sessions
        self._is_over = is_over
        self._sends_until = time.monotonic() + SENDING_SECONDS

    def take_part(self) -> None:
        while not self._is_over.is_set():
            if time.monotonic() < self._sends_until and self._chance.random() < 0.4:
                self._send()
            if (run_id := self._receive()) is not None and self._chance.random() > 0.05:  # some messages are lost
                self._work(run_id)
        connection.close()

    def _send(self) -> None:
        session = self._chance.choice(self._sessions)
        try:
            turn = accepting.accept_turn(user=session.owner, session_id=session.pk, message="hi")
        except QueueFullError:
            return
        if turn.is_first:
            dispatch.dispatch(turn.run_id, placement=turn.placement)
        if self._chance.random() < 0.1:
            cancelling.request_cancel(session=session, run_id=turn.run_id)
            dispatch.dispatch_next(session.pk)

    def _receive(self) -> uuid.UUID | None:
        found: Any = sync_client().brpop([QUEUE], timeout=0.05)
        if not found:
            return None
        body = json.loads(base64.b64decode(json.loads(found[1])["body"]))
        return uuid.UUID(body[0][0])

    def _work(self, run_id: uuid.UUID) -> None:
        if not slots.confirm([run_id]):
            dispatch.dispatch(run_id)
            return
        claim = claiming.claim_run(run_id=run_id, worker="w")
        if claim is None:
            dispatch.release_unless_running(run_id)
            return
        self.tally["served"] += 1
        self.tally["violations"] += count_violations()
        time.sleep(self._chance.random() * 0.02)
        if self._chance.random() < 0.05:
            self.tally["crashed"] += 1
            return
        end = recording.Step(events=[recording.NewEvent(1, 1, "done", {})])
        try:
            recording.finish_run(claim=claim, status=RunStatus.SUCCEEDED, step=end)
        except StaleEpochError:
            return
        dispatch.release(run_id)
        dispatch.dispatch_next(claim.session_id)


def count_violations() -> int:
    with connection.cursor() as cursor:
        cursor.execute(_AT_WORK)
        rows = cursor.fetchall()
    by_user, by_type = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
    found = int(len(rows) > LIMITS["site"])
    found += sum(number > LIMITS["user"] for number in by_user.values())
    return found + sum(number > LIMITS["agent_type"] for number in by_type.values())


def main(seed: int) -> None:
    is_over = threading.Event()
    sessions = list(AgentSession.objects.select_related("owner"))
    parties = [Party(100 * seed + number, sessions, is_over) for number in range(THREADS)]
    threads = [threading.Thread(target=party.take_part) for party in parties]
    for thread in threads:
        thread.start()
    print("begun", flush=True)
    sys.stdin.read()
    is_over.set()
    for thread in threads:
        thread.join()
    print(json.dumps(sum((party.tally for party in parties), Counter())))


if __name__ == "__main__":
    django.setup()
    from chat.runs import dispatch
    from monitoring import slots
    from sessions_app.errors import QueueFullError, StaleEpochError
    from sessions_app.models import AgentSession, RunStatus
    from sessions_app.redis import sync_client
    from sessions_app.services import accepting, cancelling, claiming, recording

    main(int(sys.argv[1]))

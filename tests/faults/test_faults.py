"""Everything around a run breaks, and no promise does: see docs/guarantees.md.

`make test-faults` is the long form (FAULT_KILLS=200); without it each kind comes once.
"""

import os
import signal
import time
from base64 import b64decode
from itertools import cycle, islice

import orjson
import psycopg
import pytest
import redis

from tests.faults.conftest import FaultSite, wait_until
from tests.faults.load import Talker, talk, wait_for
from tests.faults.partition import NAMESPACE, OUTSIDE, Proxy, can_make_namespaces, cut, mend, network_namespace

# Every write of a turn has a fail point before or behind it.
POINTS = [
    "after_accept",
    "before_claim",
    "after_claim",
    "before_flush",
    "after_flush",
    "before_checkpoint",
    "after_checkpoint",
    "after_tool_start",
    "before_finish",
    "after_finish",
]
KILLS = int(os.environ.get("FAULT_KILLS", len(POINTS)))
LEASE_SECONDS = 2.0


def checked(broken: FaultSite, scenario: str, talkers: list[Talker]) -> None:
    assert broken.checker.check(scenario, wait_for(talkers)) == []


def begun(talkers: list[Talker]) -> None:
    for talker in talkers:
        assert talker.has_begun.wait(60.0)


@pytest.mark.timeout(60 + 10 * KILLS)
def test_killed_at_every_write(broken: FaultSite) -> None:
    talkers: list[Talker] = []

    def keep_talking() -> None:
        if not any(talker.is_alive() for talker in talkers):
            talkers.extend(talk(broken.site, sessions=6, turns=4, steps=3))

    for point in islice(cycle(POINTS), KILLS):
        broken.die_at(point, meanwhile=keep_talking)
    checked(broken, "killed at every write", talkers)


def test_the_sweeper_is_killed_after_it_took_a_run(broken: FaultSite) -> None:
    talkers = talk(broken.site, sessions=3, turns=1, steps=4)
    begun(talkers)
    broken.kill("worker-")
    broken.die_at("after_recover")
    checked(broken, "sweeper killed", talkers)


def test_a_zombie_gets_no_byte_in(broken: FaultSite) -> None:
    talkers = talk(broken.site, sessions=4, turns=2, steps=6)
    begun(talkers)
    zombies = broken.workers()
    for zombie in zombies:
        zombie.send_signal(signal.SIGSTOP)
    time.sleep(LEASE_SECONDS + 3.0)  # the fault itself: longer than the lease and a sweep
    for zombie in zombies:
        zombie.send_signal(signal.SIGCONT)
    checked(broken, "stopped past the lease", talkers)


def test_one_of_several_workers_is_a_zombie(broken: FaultSite) -> None:
    before, zombie = _take_overs(broken), broken.workers()[0]
    talkers: list[Talker] = []

    def is_taken_over() -> bool:
        """It may hold no run when it is stopped: then it is stopped again, in the middle of other turns."""
        if not any(talker.is_alive() for talker in talkers):
            zombie.send_signal(signal.SIGCONT)
            talkers.extend(talk(broken.site, sessions=6, turns=2, steps=6))
            begun(talkers)
            zombie.send_signal(signal.SIGSTOP)
        return _take_overs(broken) > before

    wait_until(is_taken_over, "a take-over", 60.0)
    zombie.send_signal(signal.SIGCONT)
    checked(broken, "one zombie", talkers)


def _take_overs(broken: FaultSite) -> int:
    with psycopg.connect(broken.site.runtime["database_url"]) as connection:
        row = connection.execute("SELECT count(*) FROM sessions_app_run WHERE attempt > 1").fetchone()
    return int(row[0]) if row else 0


def test_a_person_settles_what_a_crash_left_unknown(broken: FaultSite) -> None:
    """A charge may have happened when its worker died: the run waits, and goes on with what the person says."""
    with broken.site.client() as client, broken.site.client() as person:
        session = client.new_session("asking")
        with client.stream("POST", f"/sessions/{session}/chat", json={"message": "steps=1"}, timeout=60.0) as events:
            assert next(events)["type"] == "message"
            broken.die_at("after_tool_start")
            asked = next(event for event in events if event["type"] == "approval_required")
            assert (asked["tool"], asked["tool_call_id"]) == ("charge", "charge-0")
            (waiting,) = person.http.get(f"/sessions/{session}/approvals").json()
            settle = f"/runs/{waiting['run_id']}/tool_calls/{waiting['tool_call_id']}/settle"
            answer = person.http.post(settle, json={"decision": "happened", "result": {"charged": "by hand"}})
            assert answer.json() == {"status": "queued"}
            rest = list(events)
        results = {event["tool"]: event["result"] for event in rest if event["type"] == "tool_result"}
        assert results == {"charge": {"charged": "by hand"}, "note": {"noted": 0}}
        assert rest[-1]["type"] == "done"
        assert client.http.get(f"/runs/{waiting['run_id']}").json()["status"] == "succeeded"
    started = [line for line in broken.tool_log.read_text().splitlines() if waiting["run_id"] in line]
    assert len([line for line in started if '"charge"' in line]) <= 1
    assert len([line for line in started if '"note"' in line]) == 1


def test_redis_is_flushed(broken: FaultSite) -> None:
    talkers = talk(broken.site, sessions=4, turns=2, steps=4)
    begun(talkers)
    for _ in range(4):
        with broken.redis() as connection:
            connection.flushall()
        late = talk(broken.site, sessions=1, turns=1, steps=1)
        talkers += late
        begun(late)
    checked(broken, "flushed", talkers)


def test_valkey_restarts(broken: FaultSite) -> None:
    talkers = talk(broken.site, sessions=4, turns=2, steps=6)
    begun(talkers)
    broken.kill("valkey")
    checked(broken, "valkey killed", talkers)


def test_postgres_restarts(broken: FaultSite) -> None:
    talkers = talk(broken.site, sessions=4, turns=2, steps=6)
    begun(talkers)
    broken.kill("postgres", number=signal.SIGQUIT)  # at once, as in a crash: it recovers when it starts
    checked(broken, "postgres stopped", talkers)


def test_the_gateway_is_killed_under_open_streams(broken: FaultSite) -> None:
    talkers = talk(broken.site, sessions=4, turns=2, steps=6)
    begun(talkers)
    broken.kill("uvicorn")
    checked(broken, "gateway killed", talkers)
    assert any(talker.seen.reconnects for talker in talkers)


def runs_in_queue(connection: redis.Redis) -> int:
    """How many runs wait in the broker; a message may bring several."""
    messages = [orjson.loads(message) for message in connection.lrange("agentsite:runs", 0, -1)]
    return sum(len(orjson.loads(b64decode(message["body"]))[0]) for message in messages)


def test_the_broker_is_emptied(broken: FaultSite) -> None:
    workers = broken.workers()
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    talkers = talk(broken.site, sessions=3, turns=1, steps=1)
    with broken.redis() as connection:
        wait_until(lambda: runs_in_queue(connection) >= 3, "dispatched runs")
        connection.delete("agentsite:runs")
    for worker in workers:
        worker.send_signal(signal.SIGCONT)
    checked(broken, "broker emptied", talkers)


def test_every_run_is_delivered_again_and_again(broken: FaultSite) -> None:
    talkers = talk(broken.site, sessions=3, turns=2, steps=3)
    begun(talkers)
    broken.run_in_site(
        "from chat.runs.dispatch import dispatch; from sessions_app.models import Run\n"
        "for run_id in list(Run.objects.values_list('pk', flat=True)) * 3: dispatch(run_id)"
    )
    checked(broken, "delivered again", talkers)


def test_workers_are_deployed_anew(broken: FaultSite) -> None:
    talkers = talk(broken.site, sessions=4, turns=2, steps=6)
    begun(talkers)
    for worker in broken.workers():
        worker.send_signal(signal.SIGTERM)
    checked(broken, "deployed", talkers)


def test_a_worker_is_cut_off(broken: FaultSite) -> None:
    """It lives and believes that it holds its runs, but neither Postgres nor Redis hear it."""
    if can_make_namespaces():
        with network_namespace():
            _cut_off(broken, OUTSIDE, ["ip", "netns", "exec", NAMESPACE])
    else:
        _cut_off(broken, "127.0.0.1", [])


def _cut_off(broken: FaultSite, host: str, prefix: list[str]) -> None:
    proxies = [Proxy(host, broken.postgres_socket), Proxy(host, broken.valkey_socket)]
    database, user = broken.database
    elsewhere = broken.start_worker_elsewhere(
        prefix,
        database_url=f"postgresql://{user}@{host}:{proxies[0].port}/{database}",
        redis_url=f"redis://{host}:{proxies[1].port}/0",
    )
    here = broken.workers()
    try:
        for worker in here:
            worker.send_signal(signal.SIGSTOP)  # what comes now is the other one's
        talkers = talk(broken.site, sessions=4, turns=2, steps=8)
        begun(talkers)
        cut(proxies)
        for worker in here:
            worker.send_signal(signal.SIGCONT)
        seen = wait_for(talkers)
        mend(proxies)
        wait_until(lambda: b"stops" in broken.log_elsewhere() or elsewhere.poll() is not None, "the zombie to give up")
        assert broken.checker.check("cut off", seen) == []
    finally:
        elsewhere.kill()
        elsewhere.wait()
        for proxy in proxies:
            proxy.close()

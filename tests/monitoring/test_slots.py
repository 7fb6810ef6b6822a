"""Slots: limits of every scope at once, fair, and rebuilt from Postgres when Redis has lost them."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection

from chat.runs import recover
from monitoring import quotas, slots
from monitoring.models import Measure, Quota, Scope
from sessions_app.models import AgentSession, AgentType, Run, RunStatus
from sessions_app.models.run import ACTIVE_STATUSES
from sessions_app.queries import Placement
from sessions_app.redis import sync_client
from sessions_app.services.accepting import accept_turn
from sessions_app.services.claiming import claim_run
from sessions_app.services.sessions import create_session
from tests.fakes.processes import PROJECT
from tests.monitoring import slot_load

pytestmark = pytest.mark.django_db
SITE = "site,user:1,agent_type:1"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    Quota.objects.filter(measure=Measure.CONCURRENT_RUNS).delete()
    quotas.forget()
    forget_slots()
    slots.release(uuid.uuid4())  # from here on the state is there
    yield
    quotas.forget()
    forget_slots()


def forget_slots() -> None:
    redis = sync_client()
    for key in redis.scan_iter(f"{slots.PREFIX}*"):
        redis.delete(key)


def limit(number: int, scope: Scope = Scope.SITE, **target: Any) -> None:
    name = f"{scope.value}-{'-'.join(target) or 'each'}"
    Quota.objects.create(name=name, scope=scope, measure=Measure.CONCURRENT_RUNS, limit=number, **target)
    quotas.forget()


def lane(user: int = 1, agent_type: int = 1, *groups: int) -> str:
    return slots.lane_of(Placement(user, agent_type, (), groups))


def acquire(lane: str) -> tuple[uuid.UUID, slots.Acquired]:
    run = uuid.uuid4()
    return run, slots.acquire(run, lane)


def burst(lane: str, number: int) -> list[uuid.UUID]:
    return [acquire(lane)[0] for _ in range(number)]


def held() -> int:
    return slots.count_slots()["held"]


def counts() -> dict[str, int]:
    found: Any = sync_client().hgetall(f"{slots.PREFIX}counts")
    return {subject.decode(): int(number) for subject, number in found.items()}


# --- limits ----------------------------------------------------------------------------------------------------------


def test_without_a_limit_nobody_waits() -> None:
    assert all(acquire(SITE)[1].is_granted for _ in range(200))
    assert held() == 200


@pytest.mark.parametrize(
    ("scope", "others"),
    [
        (Scope.SITE, []),
        (Scope.USER, [lane(2)]),
        (Scope.AGENT_TYPE, [lane(1, 2)]),
        (Scope.GROUP, [lane(1, 1), lane(1, 1, 8)]),
    ],
)
def test_a_limit_of_each_scope_holds(scope: Scope, others: list[str]) -> None:
    limit(2, scope)
    mine = lane(1, 1, 7)
    assert [acquire(mine)[1].is_granted for _ in range(3)] == [True, True, False]
    assert all(acquire(other)[1].is_granted for other in others)


def test_the_limit_of_one_user_is_below_that_of_each(user: Any, other_user: Any) -> None:
    limit(3, Scope.USER)
    limit(1, Scope.USER, user=user)
    assert [acquire(lane(user.pk))[1].is_granted for _ in range(2)] == [True, False]
    assert [acquire(lane(other_user.pk))[1].is_granted for _ in range(4)] == [True, True, True, False]


def test_the_limit_of_one_group_is_for_its_members_together() -> None:
    group = Group.objects.create(name="few")
    limit(2, Scope.GROUP, group=group)
    lanes = [lane(number, 1, group.pk) for number in (1, 2, 3)]
    assert [acquire(each)[1].is_granted for each in lanes] == [True, True, False]
    assert acquire(lane(4))[1].is_granted


def test_all_limits_hold_at_once() -> None:
    limit(5)
    limit(2, Scope.USER)
    limit(3, Scope.AGENT_TYPE)
    lanes = [lane(user, agent_type) for user in (1, 2, 3) for agent_type in (1, 2)]
    for each in lanes * 5:
        acquire(each)
    found = counts()
    assert found["site"] == 5
    assert all(number <= 2 for subject, number in found.items() if subject.startswith("user:"))
    assert all(number <= 3 for subject, number in found.items() if subject.startswith("agent_type:"))


def test_a_limit_of_nothing_lets_nothing_run() -> None:
    limit(0)
    assert acquire(SITE)[1].position == 1


def test_a_limit_that_is_lowered_or_raised_counts_from_then_on() -> None:
    limit(2)
    first, second, third = burst(SITE, 3)
    Quota.objects.update(limit=1)
    quotas.forget()
    assert slots.release(first) == []
    assert slots.release(second) == [third]
    waiting, _ = acquire(SITE)
    Quota.objects.update(limit=2)
    quotas.forget()
    assert slots.sweep().granted == [waiting]


# --- one run ---------------------------------------------------------------------------------------------------------


def test_asking_twice_takes_one_slot_and_one_place() -> None:
    limit(1)
    run, _ = acquire(SITE)
    assert slots.acquire(run, SITE).is_granted
    waiting, _ = acquire(SITE)
    assert slots.acquire(waiting, SITE).position == 1
    assert slots.count_slots() == {"held": 1, "waiting": 1}
    assert slots.release(run) == [waiting]
    assert slots.release(waiting) == []
    assert (slots.count_slots(), counts()) == ({"held": 0, "waiting": 0}, {})


def test_a_slot_that_is_released_goes_to_the_next_one() -> None:
    limit(1)
    run, first, second = burst(SITE, 3)
    assert slots.release(run) == [first]
    assert slots.release(run) == []
    assert slots.release(second) == []  # it waited
    assert slots.release(first) == []


def test_a_worker_confirms_a_slot_and_not_a_place_in_the_queue() -> None:
    limit(1)
    run, waiting = burst(SITE, 2)
    assert slots.confirm([run, waiting, uuid.uuid4()]) == {run: SITE}
    assert slots.confirm([waiting]) == {}


def test_a_grant_that_nobody_claims_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(1)
    monkeypatch.setattr(slots, "GRANT_SECONDS", 0.05)
    forgotten, _ = acquire(SITE)
    waiting, answer = acquire(SITE)
    assert not answer.is_granted
    wait_until(lambda: slots.sweep().granted == [waiting])
    monkeypatch.setattr(slots, "GRANT_SECONDS", 60)
    assert slots.acquire(forgotten, SITE).position == 1


def test_a_renewed_slot_outlives_its_lease_and_another_does_not(settings: Any) -> None:
    settings.RUN_LEASE_SECONDS = 0.1
    kept, lost = burst(SITE, 2)
    assert slots.confirm([kept, lost]) == {kept: SITE, lost: SITE}

    def is_one_left() -> bool:
        slots.renew({kept: SITE})
        return held() == 1

    wait_until(is_one_left)
    assert slots.confirm([kept]) == {kept: SITE}


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- fairness --------------------------------------------------------------------------------------------------------


def test_one_request_beside_a_burst_gets_the_next_free_slot() -> None:
    limit(4)
    greedy = burst(lane(1), 200)
    modest, answer = acquire(lane(2))
    assert answer.position == 1
    assert slots.release(greedy[0]) == [modest]


def test_users_with_equally_many_slots_take_turns() -> None:
    limit(1)
    blocker, _ = acquire(lane(9))
    owner = {run: user for user in (1, 2, 3) for run in burst(lane(user), 4)}
    served, current = [], blocker
    for _ in range(12):
        (current,) = slots.release(current)
        served.append(owner[current])
    assert [set(served[at : at + 3]) for at in range(0, 12, 3)] == [{1, 2, 3}] * 4


def test_of_one_user_who_waits_longest_goes_first_whatever_the_agent_type() -> None:
    limit(1)
    blocker, _ = acquire(lane(9))
    waiting = [acquire(lane(1, agent_type))[0] for agent_type in (2, 1, 3, 1, 2)]
    served, current = [], blocker
    for _ in waiting:
        (current,) = slots.release(current)
        served.append(current)
    assert served == waiting


def test_who_does_not_fit_holds_nobody_up() -> None:
    limit(3)
    limit(1, Scope.AGENT_TYPE)
    first, blocked = burst(lane(1, 1), 2)
    assert acquire(lane(2, 2))[1].is_granted
    assert slots.acquire(blocked, lane(1, 1)).position is not None
    assert slots.release(first) == [blocked]


def test_positions_say_in_which_order_they_are_served() -> None:
    limit(2)
    running = burst(lane(9), 2)
    owner = {run: user for user, number in ((1, 5), (2, 2), (3, 1)) for run in burst(lane(user), number)}
    places = slots.sweep().positions
    assert sorted(places.values()) == list(range(1, 9))
    served: list[uuid.UUID] = []
    while len(served) < len(owner):  # each turn is as long as the others
        running += (granted := slots.release(running.pop(0)))
        served += granted
    assert [places[run] for run in served[:2]] == [1, 2]
    assert [owner[run] for run in served[:3]] == [1, 2, 3]


def test_a_place_gets_better_while_others_are_served() -> None:
    limit(1)
    run, *waiting = burst(SITE, 4)
    assert [slots.acquire(each, SITE).position for each in waiting] == [1, 2, 3]
    slots.release(run)
    assert [slots.acquire(each, SITE).position for each in waiting[1:]] == [1, 2]


def test_who_has_waited_too_long_waits_no_more(settings: Any) -> None:
    limit(1)
    _, late = burst(SITE, 2)
    settings.SLOT_WAIT_SECONDS = 0.05
    wait_until(lambda: slots.sweep().late == [late])
    assert slots.count_slots() == {"held": 1, "waiting": 0}


# --- Postgres is the truth -------------------------------------------------------------------------------------------


@pytest.fixture
def session(user: Any) -> AgentSession:
    return create_session(owner=user, agent_type="demo")


def claimed(session: AgentSession) -> Run:
    run_id = accept_turn(user=session.owner, session_id=session.pk, message="hi").run_id
    assert claim_run(run_id=run_id, worker="w") is not None
    return Run.objects.get(pk=run_id)


def test_after_a_flush_the_slots_are_rebuilt_before_anybody_gets_one(session: AgentSession, user: Any) -> None:
    limit(1)
    run = claimed(session)
    forget_slots()
    _, answer = acquire(lane(7))
    assert answer.position == 1
    mine = f"site,user:{user.pk},agent_type:{session.agent_type_id}"
    assert slots.confirm([run.pk]) == {run.pk: mine}


def test_a_flush_forgets_no_group(session: AgentSession, user: Any) -> None:
    group = Group.objects.create(name="few")
    user.groups.add(group)
    claimed(session)
    forget_slots()
    slots.sweep()
    assert counts()[f"group:{group.pk}"] == 1


def test_a_run_whose_lease_ran_out_gets_no_slot_back(session: AgentSession, settings: Any) -> None:
    settings.RUN_LEASE_SECONDS = 0
    claimed(session)
    forget_slots()
    slots.sweep()
    assert held() == 0


def test_what_was_released_is_not_revived_by_an_older_look_at_postgres(session: AgentSession) -> None:
    run = claimed(session)
    slots.release(run.pk)  # and its row is read a moment too early
    slots.sweep()
    assert held() == 0
    slots.acquire(run.pk, SITE)
    assert held() == 1


def test_a_release_while_the_state_is_lost_counts(session: AgentSession) -> None:
    run = claimed(session)
    forget_slots()
    slots.release(run.pk)
    assert held() == 0


def test_when_redis_was_out_of_reach_runs_at_work_keep_their_slots(session: AgentSession, settings: Any) -> None:
    limit(1)
    settings.RUN_LEASE_SECONDS = 60
    run = claimed(session)
    slots.acquire(run.pk, SITE)
    redis = sync_client()
    redis.zadd(f"{slots.PREFIX}held", {str(run.pk): 1})  # its slot has run out,
    redis.set(f"{slots.PREFIX}asked", 1)  # for nobody has asked since
    assert acquire(SITE)[1].position == 1
    assert slots.confirm([run.pk])


def test_the_lane_of_a_turn_comes_with_its_acceptance(user: Any, session: AgentSession) -> None:
    user.groups.add(group := Group.objects.create(name="few"))
    turn = accept_turn(user=user, session_id=session.pk, message="hi")
    assert turn.placement is not None
    assert slots.lane_of(turn.placement) == f"site,user:{user.pk},agent_type:{session.agent_type_id},group:{group.pk}"
    assert (turn.is_first, accept_turn(user=user, session_id=session.pk, message="hi").is_first) == (True, False)
    assert AgentType.objects.filter(pk=session.agent_type_id).exists()
    assert Run.objects.filter(status=RunStatus.QUEUED).count() == 2


# --- many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
@pytest.mark.parametrize("is_flushed", [False, True], ids=["", "flushed"])
def test_many_processes_never_pass_a_limit_and_leak_nothing(
    is_flushed: bool, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 processes of 8 threads, and one that is killed: runs end, crash, are cancelled, and messages get lost."""
    settings.RUN_LEASE_SECONDS = slot_load.LEASE_SECONDS
    monkeypatch.setattr(recover, "FETCHED_SECONDS", 0.5)
    for scope, number in slot_load.LIMITS.items():
        limit(number, Scope(scope))
    make_sessions()
    killed, *processes = [start_load(seed) for seed in range(4)]
    killed.kill()
    killed.communicate()
    swept_until = time.monotonic() + 60.0
    while Run.objects.filter(status__in=ACTIVE_STATUSES).exists() or time.monotonic() < swept_until - 56.0:
        assert time.monotonic() < swept_until
        recover.sweep()
        if is_flushed:
            sync_client().flushall()
        time.sleep(0.3)  # a sweeper's period
    tallies: Counter[str] = Counter()
    for process in processes:
        output, _ = process.communicate("", timeout=30)
        tallies += Counter(json.loads(output))
    print(dict(tallies))
    assert tallies["violations"] == 0
    assert tallies["served"] > 100
    assert tallies["crashed"] > 0
    assert (slots.count_slots(), counts()) == ({"held": 0, "waiting": 0}, {})


def make_sessions() -> None:
    for number in range(4):
        owner = get_user_model().objects.create_user(username=f"user {number}")
        for name in ("demo", "one", "two"):
            AgentType.objects.get_or_create(name=name, defaults={"runtime": "demo", "max_attempts": 3})
            for _ in range(2):
                create_session(owner=owner, agent_type=name)


def start_load(seed: int) -> "subprocess.Popen[str]":
    database = connection.settings_dict["NAME"]
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "agentsite.settings",
        "DATABASE_URL": os.environ["DATABASE_URL"].replace("/agentsite?", f"/{database}?"),
        "RUN_LEASE_SECONDS": str(slot_load.LEASE_SECONDS),
        "DRAIN_SECONDS": "1",
    }
    command = [sys.executable, "-m", "tests.monitoring.slot_load", str(seed)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=PROJECT, env=env, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process

"""`python -m bench.limits`: what an admission decision costs, and how long one request waits beside a user's 200.

Exits with 1 if a limit is missed. The decisions are those that a turn makes on its way to its first token: one round
trip to Redis each, by the code that gateways and workers call, while the system is idle. The burst goes through the
whole system, with few slots and answers of a known length.
"""

import argparse
import asyncio
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import django
import uvloop

from bench.client import Address, AnswerReader, Talk, TargetError, Turn, open_talks
from bench.durability import Figure
from bench.scenarios import Scenario
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Site, running_site

SLOTS = 4
DECISION_MS = 1.0
FAIR_RATIO = 2.0  # until its first word, of the time that the whole request takes alone
BURST = Scenario("burst", sessions=200, turns=1, tokens=50, delay_ms=20)
_MAKE_USER = (
    "from django.contrib.auth.models import User;"
    "from sessions_app.services.tokens import create_token;"
    "print('token', create_token(owner=User.objects.create_user('modest'), name='bench')[1])"
)


@dataclass(frozen=True)
class Counts:
    """Repetitions: of each decision, and of the one request beside the burst."""

    decisions: int
    requests: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.limits", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    counts = Counts(300, 5) if parser.parse_args().quick else Counts(3_000, 15)
    env = {"AGENT_MODEL": "fake-model", "OPENAI_API_KEY": "test", "SLOT_WAIT_SECONDS": "600"}
    with FakeOpenAIProcess() as fake:
        env["OPENAI_BASE_URL"] = fake.base_url
        with running_site(**env, MAX_CONCURRENT_AGENTS=str(SLOTS)) as site:
            figures = [*uvloop.run(measure_fairness(site, counts.requests)), *measure_decisions(site, counts.decisions)]
    print(f"{'':44} {'n':>4} {'p50':>9} {'p95':>9} {'max':>9}")
    for figure in figures:
        print(figure.row())
    return 0 if all(figure.is_reached for figure in figures) else 1


# --- decisions -------------------------------------------------------------------------------------------------------


def measure_decisions(site: Site, repetitions: int) -> Iterator[Figure]:
    """In this process, on the running system's databases, whose workers are idle."""
    with django_on(site) as slots:
        yield from decisions_of(slots, repetitions, held=0, waiting=0)
        yield from decisions_of(slots, repetitions, held=SLOTS, waiting=200)


@contextmanager
def django_on(site: Site) -> Iterator[Any]:
    """`monitoring.slots`, with the site's settings."""
    runtime = site.runtime
    os.environ.update(
        {
            "DJANGO_SETTINGS_MODULE": "agentsite.settings",
            "DATA_DIR": str(site.data_dir),
            "DATABASE_URL": runtime["database_url"],
            "REDIS_URL": runtime["redis_url"],
            "SECRET_KEY": "of the bench",
            "LOG_LEVEL": "WARNING",
        }
    )
    django.setup()
    from monitoring import slots  # noqa: PLC0415 - it loads the settings

    yield slots


def decisions_of(slots: Any, repetitions: int, *, held: int, waiting: int) -> Iterator[Figure]:
    """The cost of each, while so many slots are held and so many runs of other users wait."""
    users = random.Random(1)
    others = [uuid.uuid4() for _ in range(held + waiting)]
    for run in others:
        slots.acquire(run, lane(users.randint(2, 50)))
    acquired: list[float] = []
    confirmed: list[float] = []
    released: list[float] = []
    for _ in range(repetitions):
        run = uuid.uuid4()
        acquired.append(milliseconds(partial(slots.acquire, run, lane(1))))
        confirmed.append(milliseconds(partial(slots.confirm, [run])))
        released.append(milliseconds(partial(slots.release, run)))
    for run in reversed(others):  # those that wait first
        slots.release(run)
    state = f"{held} held, {waiting} waiting"
    for name, values in (("acquire", acquired), ("confirm", confirmed), ("release", released)):
        yield Figure(f"{name}, {state}", "ms", values, DECISION_MS)


def lane(user: int) -> str:
    return f"site,user:{user},agent_type:1,group:{user % 5}"


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1_000


# --- fairness --------------------------------------------------------------------------------------------------------


async def measure_fairness(site: Site, repetitions: int) -> list[Figure]:
    """A user's one request, alone and beside another user's burst, one after the other while the burst lasts."""
    token = site.manage("shell", "-v", "0", "-c", _MAKE_USER).split("token ")[1].strip()
    async with (
        open_talks(Address(site.url, site.token), "sse", BURST.sessions) as greedy,
        open_talks(Address(site.url, token), "sse", repetitions + 1) as modest,
    ):
        alone = [(await answer(modest[0])).seconds for _ in range(6)][1:]  # the first one warms up
        solo = sorted(alone)[len(alone) // 2]
        readers = [Reader() for _ in greedy]
        started = time.perf_counter()
        burst = [asyncio.create_task(answer(*pair)) for pair in zip(greedy, readers, strict=True)]
        for reader in readers:  # until all are at work or wait; meanwhile slots turn over
            await reader.is_accepted.wait()
        accepted = time.perf_counter() - started
        turns = []
        for talk in modest[1:]:
            turns.append(await answer(talk))
            if all(task.done() for task in burst):
                raise TargetError("The burst was over before the requests were.")
        others = await asyncio.gather(*burst)
    waits = [(turn.first_token_seconds or 0.0) / solo for turn in turns]
    return [
        Figure(f"alone, {SLOTS} slots", "s", alone, 2 * BURST.ideal_seconds),
        Figure(f"until all {BURST.sessions} of another user are accepted", "s", [accepted], 10.0),
        Figure(f"one beside these {BURST.sessions}: waits, x its time alone", "", waits, FAIR_RATIO, is_worst=True),
        Figure("  and takes, x its time alone", "", [turn.seconds / solo for turn in turns], 1 + FAIR_RATIO),
        Figure(f"each of the {BURST.sessions} takes, x that time", "", [turn.seconds / solo for turn in others], 75.0),
    ]


class Reader(AnswerReader):
    """`is_accepted`: its first event has come."""

    def __init__(self) -> None:
        super().__init__()
        self.is_accepted = asyncio.Event()

    def read(self, event_type: str, fields: dict[str, Any]) -> bool:
        self.is_accepted.set()
        return super().read(event_type, fields)


async def answer(talk: Talk, reader: AnswerReader | None = None) -> Turn:
    """The whole answer; raises TargetError for any other one."""
    reader = reader or AnswerReader()
    await talk(BURST.message, reader)
    turn = reader.turn([f"tok{i}" for i in range(BURST.tokens)])
    if turn.problem:
        raise TargetError(turn.problem)
    return turn


if __name__ == "__main__":
    sys.exit(main())

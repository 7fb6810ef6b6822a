"""`python -m bench.durability`: how soon a cancel is true, a reader has caught up, a lost worker is replaced.

Exits with 1 if a limit is missed. Times are taken by the client, in the process that prints them.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import psutil
import redis

from bench.targets import Target, run_system
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client

LONG = "[[tokens=5000 delay_ms=20]]"
TAPE_TOKENS = 2_000
TAPE = f"[[tokens={TAPE_TOKENS} delay_ms=8]]"  # slower than the stream's tick: each token is an event of its own
AT_ONCE = 10
CURSORS = 20


@dataclass(frozen=True)
class Figure:
    """`values` in `unit`; `limit` holds for the p95, or for the slowest if `is_worst`."""

    name: str
    unit: str
    values: list[float]
    limit: float
    is_worst: bool = False

    @property
    def p95(self) -> float:
        return sorted(self.values)[max(0, round(0.95 * len(self.values)) - 1)]

    @property
    def is_reached(self) -> bool:
        return (max(self.values) if self.is_worst else self.p95) <= self.limit

    def row(self) -> str:
        shown = f"{statistics.median(self.values):9.1f} {self.p95:9.1f} {max(self.values):9.1f}"
        which = "max" if self.is_worst else "p95"
        verdict = "reached" if self.is_reached else "MISSED"
        return f"{self.name:44} {len(self.values):4} {shown} {self.unit:3} {which} <= {self.limit:<6g} {verdict}"


def client_of(target: Target) -> Client:
    return Client(target.address.url, target.address.token)


def chat(client: Client, session: str, message: str) -> AbstractContextManager[Iterator[dict[str, Any]]]:
    return client.stream("POST", f"/sessions/{session}/chat", json={"message": message})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.durability", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args()
    figures: list[Figure] = []
    with FakeOpenAIProcess() as fake, run_system(fake, "uvicorn") as target:
        figures += measure_cancel(target, fake, alone=10 if options.quick else 50, rounds=1 if options.quick else 5)
        figures += measure_resume(target)
        figures.append(measure_take_over(target, 1 if options.quick else 3))
    print(f"{'':44} {'n':>4} {'p50':>9} {'p95':>9} {'max':>9}")
    for figure in figures:
        print(figure.row())
    return 0 if all(figure.is_reached for figure in figures) else 1


# --- cancel ----------------------------------------------------------------------------------------------------------


def measure_cancel(target: Target, fake: FakeOpenAIProcess, *, alone: int, rounds: int) -> list[Figure]:
    one = [cancel_one(target) for _ in range(alone)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        several = [ms for _ in range(rounds) for ms in pool.map(lambda _: cancel_one(target), range(AT_ONCE))]
    fake.wait_for_request(lambda _: all(request["client_disconnected"] for request in fake.requests()))
    return [
        Figure("cancel to its event, one run", "ms", one, 150),
        Figure(f"cancel to its event, {AT_ONCE} at once", "ms", several, 150),
    ]


def cancel_one(target: Target) -> float:
    """Milliseconds from before the request to the event on the stream that was open all the time."""
    client, other = client_of(target), client_of(target)
    session = client.new_session("chat")
    other.http.get("/health")  # its connection is open
    with chat(client, session, LONG) as events:
        while next(events)["type"] != "response":
            pass
        with ThreadPoolExecutor(1) as pool:
            started = time.perf_counter()
            answer = pool.submit(other.http.post, f"/sessions/{session}/cancel")
            while next(events)["type"] != "cancelled":
                pass
            seconds = time.perf_counter() - started
            answer.result().raise_for_status()
    return seconds * 1_000


# --- resume ----------------------------------------------------------------------------------------------------------


def measure_resume(target: Target) -> list[Figure]:
    client = client_of(target)
    session = client.new_session("chat")
    with chat(client, session, TAPE) as events:
        ids = [event["id"] for event in events]
    print(f"the tape has {len(ids)} events", file=sys.stderr)
    cursors = ["0-0", *ids[: -1 : max(1, len(ids) // CURSORS)], ids[-2]]
    figures = resume_figures(client, session, cursors, ids[-1], "the stream in Redis")
    assert target.data_dir is not None
    runtime = json.loads((target.data_dir / "runtime.json").read_text())
    with redis.Redis.from_url(runtime["redis_url"]) as connection:
        connection.delete(f"agentsite:events:{session}")
    return figures + resume_figures(client, session, cursors, ids[-1], "from the record")


def resume_figures(client: Client, session: str, cursors: list[str], last: str, where: str) -> list[Figure]:
    times = [resume(client, session, after, last) for after in cursors]
    return [
        Figure(f"resume to the first event, {where}", "ms", [first for first, _ in times], 50),
        Figure(f"resume to the last event, {where}", "ms", [whole for _, whole in times], 300),
    ]


def resume(client: Client, session: str, after: str, last: str) -> tuple[float, float]:
    """Milliseconds to the first event and to the last."""
    started = time.perf_counter()
    first = 0.0
    with client.stream("GET", f"/sessions/{session}/events", params={"after": after}) as events:
        for event in events:
            first = first or time.perf_counter()
            if event["id"] == last:
                break
    return (first - started) * 1_000, (time.perf_counter() - started) * 1_000


# --- take-over -------------------------------------------------------------------------------------------------------


def measure_take_over(target: Target, count: int) -> Figure:
    return Figure(
        "a killed worker to the next attempt's event", "s", [take_over(target) for _ in range(count)], 25, True
    )


def take_over(target: Target) -> float:
    """Seconds from the SIGKILL of all workers to the new attempt's first event at the client."""
    client = client_of(target)
    session = client.new_session("chat")
    with chat(client, session, LONG) as events:
        while next(events)["type"] != "response":
            pass
        started = time.perf_counter()
        for child in psutil.Process(target.pid).children():
            if any(word.startswith("worker-") for word in child.cmdline()):
                child.kill()
        while next(events)["type"] != "discard":
            pass
        seconds = time.perf_counter() - started
    client_of(target).http.post(f"/sessions/{session}/cancel")
    return seconds


if __name__ == "__main__":
    sys.exit(main())

"""The outbox: the first run leaves at once, a burst shares messages, nothing is lost."""

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from chat.runs.outbox import GATHER_SECONDS, MAX_RUNS, Outbox
from tests.fakes.processes import PROJECT

QUICK_SECONDS = 5.0  # a message that has not come by then will not


class Broker:
    """Keeps the messages with the time of each, and takes its time for one."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.messages: list[tuple[str, list[uuid.UUID], float]] = []
        self._came = threading.Condition()

    def send(self, queue: str, run_ids: Sequence[uuid.UUID]) -> None:
        with self._came:
            self.messages.append((queue, list(run_ids), time.monotonic()))
            self._came.notify_all()
        time.sleep(self.seconds)

    def wait_for_runs(self, count: int) -> list[uuid.UUID]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.run_ids()) >= count, QUICK_SECONDS)
        return self.run_ids()

    def run_ids(self) -> list[uuid.UUID]:
        return [run_id for _, run_ids, _ in self.messages for run_id in run_ids]


def new_ids(count: int) -> list[uuid.UUID]:
    return [uuid.uuid4() for _ in range(count)]


def test_a_single_run_leaves_at_once_and_alone() -> None:
    broker = Broker()
    outbox = Outbox(broker.send)
    for run_id in (ids := new_ids(3)):
        outbox.add("runs", run_id)
        assert broker.run_ids()[-1] == run_id, "from this thread"
        time.sleep(2 * GATHER_SECONDS)
    assert [run_ids for _, run_ids, _ in broker.messages] == [[run_id] for run_id in ids]


def test_a_burst_shares_messages_in_its_order() -> None:
    broker = Broker()
    outbox = Outbox(broker.send)
    for run_id in (ids := new_ids(100)):
        outbox.add("runs", run_id)
    assert broker.wait_for_runs(100) == ids
    assert len(broker.messages) < 20
    assert max(len(run_ids) for _, run_ids, _ in broker.messages) <= MAX_RUNS


def test_what_comes_while_one_message_is_on_its_way_goes_with_the_next() -> None:
    broker = Broker(seconds=0.2)
    outbox = Outbox(broker.send)
    first, *others = new_ids(6)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(outbox.add, "runs", first)
        broker.wait_for_runs(1)
        for run_id in others:
            outbox.add("runs", run_id)
        assert broker.run_ids() == [first], "who adds does not wait for it"
        broker.wait_for_runs(6)
    assert [run_ids for _, run_ids, _ in broker.messages] == [[first], others]


def test_each_queue_has_messages_of_its_own() -> None:
    broker = Broker()
    outbox = Outbox(broker.send)
    plain, gpu = new_ids(10), new_ids(10)
    for of_plain, of_gpu in zip(plain, gpu, strict=True):
        outbox.add("runs", of_plain)
        outbox.add("runs.gpu", of_gpu)
    broker.wait_for_runs(20)
    for queue, ids in (("runs", plain), ("runs.gpu", gpu)):
        assert [run_id for name, run_ids, _ in broker.messages if name == queue for run_id in run_ids] == ids


def test_many_threads_lose_and_repeat_nothing() -> None:
    broker = Broker()
    outbox = Outbox(broker.send)
    ids = new_ids(500)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda run_id: outbox.add("runs", run_id), ids))
    assert sorted(broker.wait_for_runs(500)) == sorted(ids)


def test_a_process_that_ends_sends_first() -> None:
    code = (
        "import uuid, time; from chat.runs.outbox import Outbox\n"
        "outbox = Outbox(lambda queue, ids: (time.sleep(0.1), print(len(ids), flush=True)))\n"
        "for _ in range(4): outbox.add('runs', uuid.uuid4())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert sum(map(int, done.stdout.split())) == 4

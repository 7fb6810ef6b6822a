"""CPU time and memory of a target's processes, the databases apart from everything else."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

SETTLE_SECONDS = 0.5  # the work that follows an answer's last token belongs to it
DATABASES = ("postgres", "valkey-server", "redis-server")


@dataclass(frozen=True)
class Usage:
    cpu_seconds: float
    rss_bytes: int


@dataclass(frozen=True)
class Reading:
    app: Usage
    databases: Usage
    harness_cpu_seconds: float  # of the client and the fake model, which compete for the same cores


@dataclass(frozen=True)
class Meter:
    """Reads what a target has used so far: the tree of `pid`, and the databases living in `data_dir`."""

    pid: int
    data_dir: Path | None
    model_pid: int

    def read(self) -> Reading:
        time.sleep(SETTLE_SECONDS)
        tree = family(psutil.Process(self.pid))
        databases = database_processes(self.data_dir) if self.data_dir else set()
        harness = sum(own_cpu_seconds(pid) for pid in (os.getpid(), self.model_pid))
        return Reading(add_up(tree - databases), add_up(databases), harness)


def own_cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def family(process: psutil.Process) -> set[psutil.Process]:
    return {process, *process.children(recursive=True)}


def database_processes(data_dir: Path) -> set[psutil.Process]:
    """Found by where they live: a database server may have left the tree of the process that started it."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter(["name", "cwd", "cmdline"]):
        if (process.info["name"] or "").startswith(DATABASES):
            places = [process.info["cwd"] or "", *(process.info["cmdline"] or [])]
            if any(str(data_dir) in place for place in places):
                found |= family(process)
    return found


def add_up(processes: set[psutil.Process]) -> Usage:
    cpu_seconds, rss_bytes = 0.0, 0
    for process in processes:
        try:
            times = process.cpu_times()
            rss_bytes += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # its time now stands with its parent
        # What ended children have used counts as their parent's: none is lost between two readings.
        cpu_seconds += times.user + times.system + times.children_user + times.children_system
    return Usage(cpu_seconds, rss_bytes)

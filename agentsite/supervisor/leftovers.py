"""What a killed supervisor left behind: found by what it wrote down, ended before anything starts."""

import json
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from agentsite.supervisor.children import DATABASE_PATIENCE_SECONDS, WORKER_PATIENCE_SECONDS

_POLL_SECONDS = 0.05
_KILLED_SECONDS = 5.0  # until the kernel has ended what was killed
# By the names of their processes. SIGINT is PostgreSQL's fast shutdown, which rolls back and closes.
_DATABASE_SIGNALS = {"postgres": signal.SIGINT, "valkey-server": signal.SIGTERM}


def record_processes(data_dir: Path, pids: Iterable[int]) -> None:
    """Write down who runs. The time of creation tells a process from a later one with its number."""
    known = []
    for pid in pids:
        try:
            known.append({"pid": pid, "created": psutil.Process(pid).create_time()})
        except psutil.NoSuchProcess:
            continue
    draft = data_dir / "processes.json.new"
    draft.write_text(json.dumps(known))
    draft.replace(data_dir / "processes.json")


def end_leftovers(data_dir: Path, say: Callable[[str], None]) -> None:
    """End the recorded processes that still run, as the supervisor itself stops them: the databases last, without
    which a worker cannot hand over its runs."""
    left = [(process, _name(process)) for process in _recorded(data_dir)]
    serving = [process for process, name in left if name not in _DATABASE_SIGNALS]
    databases = [process for process, name in left if name in _DATABASE_SIGNALS]
    for what, group, patience_seconds in (
        ("the site and workers", serving, WORKER_PATIENCE_SECONDS),
        ("the databases", databases, DATABASE_PATIENCE_SECONDS),
    ):
        if group:
            size = f"{len(group)} processes, {patience_seconds:.0f} s at most"
            say(f"Ending {what} that a killed supervisor had left ({size}) ...")
            _end(group, patience_seconds)
    if left:
        say("They have ended.")


def _end(processes: Sequence[psutil.Process], patience_seconds: float) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(_DATABASE_SIGNALS.get(_name(process), signal.SIGTERM))
    for process in _wait_ended(processes, patience_seconds):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_ended(processes, _KILLED_SECONDS)


def _wait_ended(processes: Sequence[psutil.Process], seconds: float) -> Sequence[psutil.Process]:
    """Returns those that still run then."""
    deadline = time.monotonic() + seconds
    while alive := [process for process in processes if _is_alive(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    """A zombie has ended. Its parent is now the first process, which in a container may never take notice of it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _recorded(data_dir: Path) -> Iterable[psutil.Process]:
    try:
        known = json.loads((data_dir / "processes.json").read_text())
    except (OSError, ValueError):
        return
    for entry in known:
        try:
            process = psutil.Process(entry["pid"])
            if abs(process.create_time() - entry["created"]) < 1.0 and _is_alive(process):
                yield process
        except psutil.NoSuchProcess:
            continue

"""What a killed supervisor left behind: found by what it wrote down, ended before anything starts."""

import json
from collections.abc import Iterable
from pathlib import Path

import psutil

_PATIENCE_SECONDS = 20.0


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


def end_leftovers(data_dir: Path) -> int:
    """End the recorded processes that still run, databases in good order; returns how many there were."""
    left = list(_recorded(data_dir))
    for process in left:
        try:
            # SIGINT is PostgreSQL's fast shutdown, which rolls back and closes; Valkey and the others take SIGTERM.
            process.send_signal(2 if process.name() == "postgres" else 15)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(left, timeout=_PATIENCE_SECONDS)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=5.0)
    return len(left)


def _recorded(data_dir: Path) -> Iterable[psutil.Process]:
    try:
        known = json.loads((data_dir / "processes.json").read_text())
    except (OSError, ValueError):
        return
    for entry in known:
        try:
            process = psutil.Process(entry["pid"])
            if abs(process.create_time() - entry["created"]) < 1.0:
                yield process
        except psutil.NoSuchProcess:
            continue

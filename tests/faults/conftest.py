"""One system for all scenarios, with short leases, and everything in it that a test can break."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import psutil
import pytest
import redis

from monitoring.workers import HEARTBEAT_KEY
from tests.fakes.processes import PROJECT
from tests.faults.checker import Checker
from tests.site import Site, running_site

WAIT_SECONDS = 60.0

_MAKE_AGENT_TYPES = """
from sessions_app.models import AgentType
for name, unknown_outcome in (("steps", "tell"), ("asking", "ask")):
    AgentType.objects.create(
        name=name, title=name, runtime="steps", tools=["charge", "note"], max_attempts=30000,
        unknown_outcome=unknown_outcome)
"""


class FaultSite:
    """The running system, and the means to break its parts."""

    def __init__(self, site: Site, points: Path, tool_log: Path) -> None:
        self.site = site
        self.checker = Checker(self.site.runtime["database_url"], tool_log)
        self.tool_log = tool_log
        self._points = points

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.site.runtime["redis_url"])

    def processes(self, *words: str) -> list[psutil.Process]:
        """The system's processes with one of these words, or one that begins with it, in their command lines."""
        found = []
        for child in psutil.Process(self.site.process.pid).children():
            try:
                if any(part.rsplit("/", 1)[-1].startswith(words) for part in child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        return self.processes("worker-")

    def die_at(self, point: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Have the next process die that comes by this fail point; `meanwhile` sees to it that one does."""
        armed = self._points / point
        armed.touch()

        def has_died() -> bool:
            meanwhile()
            return not armed.exists()

        wait_until(has_died, f"a process at {point}")
        self.checker.report.kills += 1

    def kill(self, *words: str, number: int = signal.SIGKILL) -> None:
        found = self.processes(*words)
        assert found, words
        for process in found:
            process.send_signal(number)
        self.checker.report.kills += len(found)

    def run_in_site(self, code: str) -> str:
        return self.site.manage("shell", "-v", "0", "-c", code)

    @property
    def postgres_socket(self) -> str:
        query = parse_qs(urlsplit(self.site.runtime["database_url"]).query)
        return str(next(Path(query["host"][0]).glob(".s.PGSQL.*[0-9]")))

    @property
    def valkey_socket(self) -> str:
        return unquote(urlsplit(self.site.runtime["redis_url"]).path)

    @property
    def database(self) -> tuple[str, str]:
        """Its name and its user."""
        url = urlsplit(self.site.runtime["database_url"])
        return url.path.strip("/"), url.username or "postgres"

    def start_worker_elsewhere(
        self, prefix: list[str], *, database_url: str, redis_url: str
    ) -> "subprocess.Popen[bytes]":
        """A worker that reaches the databases its own way, as one on another machine."""
        env = {**self.site.env, "DATABASE_URL": database_url, "REDIS_URL": redis_url, "LOG_LEVEL": "INFO"}
        argv = [sys.executable, "-m", "celery", "-A", "agentsite", "worker", "-Q", "runs", "-n", "elsewhere@%h"]
        options = ["-P", "threads", "-c", "64", "--loglevel", "info", "--without-gossip", "--without-mingle"]
        with self.redis() as connection:
            before = set(connection.zrange(HEARTBEAT_KEY, 0, -1))
        with (self.site.data_dir / "logs" / "elsewhere.log").open("ab") as log:
            process = subprocess.Popen([*prefix, *argv, *options], cwd=PROJECT, env=env, stdout=log, stderr=log)
        with self.redis() as connection:
            wait_until(lambda: set(connection.zrange(HEARTBEAT_KEY, 0, -1)) - before, "the worker elsewhere")
        return process

    def log_elsewhere(self) -> bytes:
        return (self.site.data_dir / "logs" / "elsewhere.log").read_bytes()


def wait_until(condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait for an event that only looking reveals."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultSite]:
    directory = tmp_path_factory.mktemp("faults")
    points, tool_log = directory / "points", directory / "tools.jsonl"
    points.mkdir()
    tool_log.touch()
    env = {
        "WORKER_PROCESSES": "3",
        "RUN_LEASE_SECONDS": "2",
        "DRAIN_SECONDS": "1",
        "SWEEP_SECONDS": "1",
        "RESTART_BACKOFF_SECONDS": "1",
        "EXTRA_AGENT_RUNTIMES": "steps=tests.faults.agent.StepAgent",
        "EXTRA_AGENT_TOOLS": "charge=tests.faults.agent.charge,note=tests.faults.agent.note",
        "AGENTSITE_FAIL_POINTS": str(points),
        "FAULT_TOOL_LOG": str(tool_log),
    }
    with running_site(**env) as site:
        found = FaultSite(site, points, tool_log)
        found.run_in_site(_MAKE_AGENT_TYPES)
        yield found
        print(f"\nfault suite: {found.checker.report}", file=sys.stderr)

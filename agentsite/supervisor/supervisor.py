"""Starts the whole system, keeps it running, and stops it in good order."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from types import FrameType

from agentsite.supervisor import leftovers
from agentsite.supervisor.children import Child
from agentsite.supervisor.config import (
    Config,
    StartError,
    check_port,
    free_port,
    make_data_dir,
    secret_key,
    write_private,
)
from agentsite.supervisor.lock import take_lock
from agentsite.supervisor.postgres import EmbeddedPostgres
from agentsite.supervisor.services import local_model, serving_children
from agentsite.supervisor.valkey import EmbeddedValkey

READY_SECONDS = 90.0
POLL_SECONDS = 0.1
GIVE_UP_AFTER_DEATHS = 3  # before the system was ready for the first time


def say(line: str) -> None:
    print(line, flush=True)


class Stopped(Exception):
    """A signal asked the supervisor to stop."""


class Supervisor:
    """`run` returns when the system has stopped; raises StartError if it cannot start."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._databases: list[Child] = []
        self._serving: list[Child] = []
        self._env: dict[str, str] = {}
        self._stop_signals = 0

    def run(self) -> None:
        config = self._config
        make_data_dir(config)
        with take_lock(config):
            self._listen_for_signals()
            leftovers.end_leftovers(config.data_dir, say)
            check_port(config)
            try:
                self._start()
                self._watch()
            except Stopped:
                pass
            finally:
                self._stop()

    # --- start -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        database_url, redis_url = self._start_databases()
        self._env = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "DATA_DIR": str(self._config.data_dir),
            "SECRET_KEY": secret_key(self._config.data_dir),
        }
        if not self._config.database_url:
            self._env["DATABASE_PREPARED_STATEMENTS"] = os.environ.get("DATABASE_PREPARED_STATEMENTS", "1")
        if self._config.has_local_model:
            self._start_model()
        link = self._prepare()
        for child in serving_children(self._config, self._env):
            child.start()
            self._serving.append(child)
        self._record()
        self._write_runtime()
        self._wait_until_ready()
        say(f"Ready: {self._config.address}")
        say(f"Log in once with {self._config.address}{link}")
        say(f"Credentials: {self._config.data_dir / 'credentials.json'}. Ctrl-C stops everything.")

    def _start_databases(self) -> tuple[str, str]:
        database_url, redis_url = self._config.database_url, self._config.redis_url
        if not database_url:
            postgres = EmbeddedPostgres(self._config.data_dir)
            self._start_database("PostgreSQL", postgres.start)
            database_url = postgres.url
        if not redis_url:
            valkey = EmbeddedValkey(self._config.data_dir)
            self._start_database("Valkey", valkey.start)
            redis_url = valkey.url
        return database_url, redis_url

    def _start_database(self, name: str, start: Callable[[], Child]) -> None:
        started = time.monotonic()
        say(f"Starting {name} in {self._config.data_dir} ...")
        try:
            self._databases.append(start())
        finally:
            self._record()
        say(f"{name} is ready ({time.monotonic() - started:.1f} s).")
        self._raise_if_stopped()

    def _start_model(self) -> None:
        port = free_port()
        self._env["LOCAL_MODEL_URL"] = f"http://127.0.0.1:{port}"
        child = local_model(self._config.data_dir, port)
        child.start()
        self._serving.append(child)
        self._record()

    def _prepare(self) -> str:
        """Migrations and first-run credentials, in a process of their own; returns the login link's path."""
        result_path = self._config.data_dir / "prepared.json"
        result_path.unlink(missing_ok=True)
        argv = [sys.executable, "manage.py", "prepare", "--result", str(result_path)]
        process = subprocess.Popen(argv, env={**os.environ, **self._env}, start_new_session=True)
        while process.poll() is None:
            if self._stop_signals:
                process.terminate()
            time.sleep(POLL_SECONDS)
        self._raise_if_stopped()
        if process.returncode:
            raise StartError("")  # it has said why
        result = json.loads(result_path.read_text())
        result_path.unlink()
        return str(result["login_path"])

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            self._raise_if_stopped()
            self._revive()
            failing = next((child for child in self._serving if child.deaths >= GIVE_UP_AFTER_DEATHS), None)
            if failing is not None:
                raise StartError(f"{failing.name} does not start:\n{failing.last_words()}")
            if time.monotonic() > deadline:
                raise StartError(f"The site did not answer within {READY_SECONDS:.0f} s; see the logs.")
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        request = urllib.request.Request(f"{self._config.address}/health", headers={"Host": "localhost"})
        try:
            with urllib.request.urlopen(request, timeout=2.0) as response:
                return bool(response.status == 200) and self._is_worker_ready() and self._is_model_ready()
        except (urllib.error.URLError, OSError):
            return False

    def _is_worker_ready(self) -> bool:
        request = urllib.request.Request(f"{self._config.address}/health/detailed", headers={"Host": "localhost"})
        try:
            with urllib.request.urlopen(request, timeout=5.0) as response:
                report = json.load(response)
        except (urllib.error.URLError, OSError):
            return False
        return bool(report["checks"]["celery"]["status"] == "ok")

    def _is_model_ready(self) -> bool:
        url = self._env.get("LOCAL_MODEL_URL")
        if not url:
            return True
        with urllib.request.urlopen(f"{url}/health", timeout=2.0) as response:
            return bool(response.status == 200)

    # --- run -------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while True:
            self._raise_if_stopped()
            self._revive()
            time.sleep(POLL_SECONDS)

    def _revive(self) -> None:
        before = self._pids()
        for child in [*self._databases, *self._serving]:
            if line := child.revive():
                say(line)
        if self._pids() != before:
            self._record()

    def _pids(self) -> list[int]:
        return [child.process.pid for child in [*self._databases, *self._serving] if child.process]

    def _record(self) -> None:
        leftovers.record_processes(self._config.data_dir, self._pids())

    def _write_runtime(self) -> None:
        """What other commands need to reach the same databases while this runs."""
        runtime = {
            "database_url": self._env["DATABASE_URL"],
            "redis_url": self._env["REDIS_URL"],
            "local_model_url": self._env.get("LOCAL_MODEL_URL", ""),
            "address": self._config.address,
            "pid": os.getpid(),
        }
        write_private(self._config.data_dir / "runtime.json", json.dumps(runtime))

    # --- stop ------------------------------------------------------------------------------------------------------

    def _listen_for_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop_signals += 1
        if self._stop_signals > 1:
            for child in self._serving:  # a second Ctrl-C: the serving ones at once, the databases never
                child.kill()

    def _raise_if_stopped(self) -> None:
        if self._stop_signals:
            raise Stopped

    def _stop(self) -> None:
        """The site first, then the workers, then the databases, which nobody uses any more."""
        if self._databases or self._serving:
            say("Stopping ...")
        for group in (self._serving, self._databases):
            for child in group:
                child.ask_to_stop()
            for child in group:
                child.wait_stopped()
        (self._config.data_dir / "runtime.json").unlink(missing_ok=True)
        (self._config.data_dir / "processes.json").unlink(missing_ok=True)
        if self._databases or self._serving:
            say("Stopped.")

"""A child process: started in a session of its own, logged, restarted with back-off, stopped."""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from agentsite import settings

FIRST_BACKOFF_SECONDS = 0.5
STEADY_AFTER_SECONDS = 60.0  # a child that lived so long starts anew without back-off
WORKER_PATIENCE_SECONDS = settings.DRAIN_SECONDS + 10.0  # it hands over its runs first
DATABASE_PATIENCE_SECONDS = 60.0  # what is killed has to recover at the next start


@dataclass
class Child:
    """`stop_signal` asks it to end; after `patience_seconds` it is killed."""

    name: str
    argv: Sequence[str]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: int = signal.SIGTERM
    patience_seconds: float = 20.0
    deaths: int = 0  # in a row
    process: subprocess.Popen[bytes] | None = None
    _started_at: float = 0.0
    _restart_at: float = 0.0

    def start(self) -> None:
        self._started_at = time.monotonic()
        with self._open_log() as log:
            self.process = subprocess.Popen(
                self.argv,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the supervisor's alone
                **as_user(self.user),
            )

    def _open_log(self) -> IO[bytes]:
        if self.log_path.exists() and self.log_path.stat().st_size > 10_000_000:
            self.log_path.replace(self.log_path.with_suffix(".log.old"))
        return self.log_path.open("ab")

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def revive(self) -> str:
        """Start it again if it died and its back-off is over; says so in a line, else ''."""
        now = time.monotonic()
        if self.is_running():
            return ""
        if not self._restart_at:
            self.deaths = 1 if now - self._started_at > STEADY_AFTER_SECONDS else self.deaths + 1
            wait = min(FIRST_BACKOFF_SECONDS * 2 ** (self.deaths - 1), settings.RESTART_BACKOFF_SECONDS)
            self._restart_at = now + wait
            code = self.process.returncode if self.process else None
            return f"{self.name} ended ({_reason(code)}), starting again in {wait:.1f} s; see {self.log_path}"
        if now >= self._restart_at:
            self._restart_at = 0.0
            self.start()
        return ""

    def ask_to_stop(self) -> None:
        if self.process and self.is_running():
            self.process.send_signal(self.stop_signal)

    def wait_stopped(self) -> None:
        """Wait for its end, and kill it and all of its session when its time is over."""
        if self.process is None:
            return
        try:
            self.process.wait(self.patience_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        if self.process and self.is_running():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def last_words(self, lines: int = 8) -> str:
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def as_user(name: str | None) -> dict[str, Any]:
    """Arguments for subprocess to run as another user and with none of root's groups; None: as this one."""
    if name is None:
        return {}
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": [], "cwd": "/"}


def _reason(code: int | None) -> str:
    if code is None:
        return "it did not start"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"

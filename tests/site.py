"""The whole system as `make run` starts it, and ways to talk to it as its clients do."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.processes import PROJECT, free_port
from tests.template import copy_template

START_SECONDS = 90.0
STOP_SECONDS = 60.0


class Site:
    """A running `manage.py up`. `output` is what it has printed."""

    def __init__(self, data_dir: Path, **env: str) -> None:
        self.data_dir = data_dir
        self.port = int(env.pop("PORT", 0)) or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}"
        self.env = {
            **{name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")},
            "DATA_DIR": str(data_dir),
            "PORT": str(self.port),
            "DEMO_DELAY_MS": "2",
            "PYTHONUNBUFFERED": "1",
            **env,
        }
        self._log = data_dir.with_suffix(".log")

    def start(self, as_user: Sequence[str] = ()) -> None:
        """`as_user` is a command line that goes before it, such as setpriv's."""
        argv = [*as_user, sys.executable, "manage.py", "up"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(argv, cwd=PROJECT, env=self.env, stdout=log, stderr=log)

    def wait_ready(self) -> "Site":
        deadline = time.monotonic() + START_SECONDS
        while "Credentials:" not in self.output:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"It did not start:\n{self.output}")
            time.sleep(0.05)
        return self

    @property
    def output(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    @property
    def credentials(self) -> dict[str, str]:
        return dict(json.loads((self.data_dir / "credentials.json").read_text()))

    @property
    def runtime(self) -> dict[str, Any]:
        """Where its databases are: `database_url`, `redis_url`."""
        return dict(json.loads((self.data_dir / "runtime.json").read_text()))

    @property
    def token(self) -> str:
        return str(self.credentials["token"])

    def login_link(self) -> str:
        return str(re.findall(r"http\S+/login/once/\S+", self.output)[-1])

    def log(self, name: str) -> str:
        """What the processes of this name have logged, such as `worker` of worker-1 and worker-2."""
        paths = sorted((self.data_dir / "logs").glob(f"{name}*.log"))
        assert paths
        return "".join(path.read_text() for path in paths)

    @contextmanager
    def logs_none_of(self, *words: str) -> Iterator[None]:
        """None of its processes logs one of these meanwhile; what they logged before counts for nothing."""
        begun = {path: path.stat().st_size for path in (self.data_dir / "logs").glob("*.log")}
        yield
        for path in (self.data_dir / "logs").glob("*.log"):
            logged = path.read_bytes()[begun.get(path, 0) :].decode()
            assert not [word for word in words if word in logged], f"{path.name}:\n{logged}"

    def manage(self, *arguments: str) -> str:
        """What a management command prints, run beside the system as an operator would."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env={**self.env, "LOG_LEVEL": "ERROR"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def client(self, token: str | None = None) -> "Client":
        return Client(self.url, self.token if token is None else token)


@contextmanager
def running_site(**env: str) -> Iterator[Site]:
    data_dir = Path(tempfile.mkdtemp(prefix="agentsite-site-")) / "data"
    if "DATABASE_URL" not in env:
        copy_template(data_dir)
    site = Site(data_dir, **env)
    site.start()
    try:
        yield site.wait_ready()
    finally:
        site.stop()
        shutil.rmtree(data_dir.parent, ignore_errors=True)


class Client:
    """A caller of the REST and SSE interfaces."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=30.0)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.http.close()

    def new_session(self, agent_type: str = "demo", **fields: Any) -> str:
        answer = self.http.post("/sessions", json={"agent_type": agent_type, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["session_id"])

    def ask(self, session_id: str, message: str) -> dict[str, Any]:
        """The whole answer, by stream=false."""
        answer = self.http.post(f"/sessions/{session_id}/chat", json={"message": message, "stream": False})
        return dict(answer.json())

    def chat(self, session_id: str, message: str) -> list[dict[str, Any]]:
        """The events of a turn, to the end of the stream."""
        with self.stream("POST", f"/sessions/{session_id}/chat", json={"message": message}) as events:
            return list(events)

    @contextmanager
    def stream(self, method: str, url: str, **options: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a stream as they come, each with its id under `id`."""
        with self.http.stream(method, url, **options) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield read_events(response.iter_lines())

    def events_after(self, session_id: str, after: str, *, until: str) -> list[dict[str, Any]]:
        """What GET events tells behind a cursor, up to the event `until`."""
        found = []
        with self.stream("GET", f"/sessions/{session_id}/events", params={"after": after}) as events:
            for event in events:
                found.append(event)
                if event["id"] == until:
                    break
        return found


def read_events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    event_id = None
    for line in lines:
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: "):
            yield {**json.loads(line[6:]), "id": event_id}
            event_id = None


def text_of(events: list[dict[str, Any]], type: str = "response") -> str:
    return "".join(event["content"] for event in events if event["type"] == type)

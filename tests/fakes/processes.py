"""Starting servers of the tests and the bench in processes of their own, and stopping them."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROJECT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 5.0


def free_port() -> int:
    """A port that is free now; for servers that cannot choose one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class ServerProcess:
    """A module that calls `serve_from_command_line`, in a process of its own while the context is open."""

    def __init__(self, module: str, environment: dict[str, str] | None = None) -> None:
        self.command = [sys.executable, "-m", module, "--port", "0", "--stop-with-parent"]
        self.environment = os.environ | (environment or {})
        self.url = ""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.command,
            cwd=PROJECT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"{' '.join(self.command)} ended with {self.process.wait()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """End it now: open connections break. Safe to call twice."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class FakeOpenAIProcess(ServerProcess):
    """The fake model server; what scripts it understands stands in `tests.fakes.openai_server`."""

    def __init__(self) -> None:
        super().__init__("tests.fakes.openai_server")

    @property
    def base_url(self) -> str:
        """For `OPENAI_BASE_URL`."""
        return f"{self.url}/v1"

    @property
    def site_env(self) -> dict[str, str]:
        """Settings of a site that has it as its model."""
        return {"AGENT_MODEL": "fake-model", "OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": "test"}

    def requests(self) -> list[dict[str, Any]]:
        """The chat requests that came, oldest first, as `SeenRequest` describes them."""
        with urllib.request.urlopen(f"{self.url}/requests", timeout=STOP_SECONDS) as response:
            seen: list[dict[str, Any]] = json.load(response)["requests"]
        return seen

    def wait_for_request(
        self, condition: Callable[[dict[str, Any]], bool], timeout_seconds: float = 10.0
    ) -> dict[str, Any]:
        """The first request that meets the condition; TimeoutError if none has done so in time."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            for request in self.requests():
                if condition(request):
                    return request
            time.sleep(0.02)  # seconds between looks
        raise TimeoutError(f"No request met the condition; seen: {self.requests()}")

    def embedded(self) -> list[int]:
        """How many texts each answered embedding request had, oldest first."""
        with urllib.request.urlopen(f"{self.url}/embedded", timeout=STOP_SECONDS) as response:
            sizes: list[int] = json.load(response)["embedded"]
        return sizes

    def break_models(self, *names: str) -> None:
        """These models answer 500 from now on, and no others."""
        body = json.dumps(names).encode()
        request = urllib.request.Request(f"{self.url}/broken", data=body, method="PUT")
        urllib.request.urlopen(request, timeout=STOP_SECONDS).close()

    def forget_requests(self) -> None:
        request = urllib.request.Request(f"{self.url}/requests", method="DELETE")
        urllib.request.urlopen(request, timeout=STOP_SECONDS).close()

"""What is measured: the relay, and the system as `make run` starts it, each in processes of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.client import Address, TargetError
from bench.measure import database_processes, family
from tests.fakes.processes import PROJECT, FakeOpenAIProcess, ServerProcess, free_port

START_SECONDS = 120
STOP_SECONDS = 30
LOG_LINES_SHOWN = 30


@dataclass(frozen=True)
class Target:
    name: str
    address: Address
    transports: tuple[str, ...]
    pid: int
    data_dir: Path | None = None


@contextmanager
def run_relay(fake: FakeOpenAIProcess) -> Iterator[Target]:
    with ServerProcess("bench.relay", environment={"OPENAI_BASE_URL": fake.base_url}) as process:
        yield Target("relay", Address(process.url, token="none"), ("sse",), process.pid)


@contextmanager
def run_system(fake: FakeOpenAIProcess, asgi_server: str) -> Iterator[Target]:
    """Start the whole system with empty data, and leave nothing of it behind."""
    data_dir = Path(tempfile.mkdtemp(prefix="agentsite-bench-"))
    port = free_port()
    log_path = data_dir / "bench.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=PROJECT,
            env=system_environment(fake, asgi_server, data_dir, port),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(process, url, log_path)
        credentials = json.loads((data_dir / "credentials.json").read_text())
        address = Address(url, credentials["token"])
        yield Target(asgi_server, address, ("sse", "ws"), process.pid, data_dir)
    finally:
        stop(process, data_dir)
        shutil.rmtree(data_dir)


def system_environment(fake: FakeOpenAIProcess, asgi_server: str, data_dir: Path, port: int) -> dict[str, str]:
    return os.environ | {
        "ASGI_SERVER": asgi_server,
        "DATA_DIR": str(data_dir),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        # Empty is as good as unset: never the databases of the one who runs this, also not from a .env.
        "DATABASE_URL": "",
        "REDIS_URL": "",
        "AGENT_MODEL": "fake-model",
        "OPENAI_BASE_URL": fake.base_url,
        "OPENAI_API_KEY": "test",
        "MAX_CONCURRENT_AGENTS": "1000",  # what is measured is not to wait for slots
    }


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)  # seconds between looks
    last_lines = "\n".join(log_path.read_text().splitlines()[-LOG_LINES_SHOWN:])
    raise TargetError(f"The system did not start; the end of its log:\n{last_lines}")


def stop(process: subprocess.Popen[bytes], data_dir: Path) -> None:
    """Ask it to stop, as Ctrl-C would; end by force what is left of its own processes, and say so."""
    ours = database_processes(data_dir)
    if process.poll() is None:
        ours |= family(psutil.Process(process.pid))
        process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(ours, timeout=STOP_SECONDS)
    for survivor in left:
        print(f"Still alive {STOP_SECONDS} s after SIGTERM, killed: {survivor}", file=sys.stderr)
        survivor.kill()
    psutil.wait_procs(left, timeout=STOP_SECONDS)
    process.wait(STOP_SECONDS)

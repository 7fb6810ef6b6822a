"""The processes that serve: the site, the worker of runs, the background worker, and beat, its clock."""

import sys
from collections.abc import Mapping
from pathlib import Path

from agentsite import settings
from agentsite.supervisor.children import WORKER_PATIENCE_SECONDS, Child
from agentsite.supervisor.config import Config
from chat.routing import queues_of_worker

MAX_FRAME_BYTES = 16_777_216  # above it the server itself closes the WebSocket; the site's own limit is lower


def serving_children(config: Config, env: Mapping[str, str]) -> list[Child]:
    logs = config.data_dir / "logs"
    env = {**env, "PYTHONUNBUFFERED": "1"}
    return [
        Child("web", _web(config), logs / "web.log", env, patience_seconds=10.0),
        *(_worker(config, number, logs, env) for number in range(1, config.worker_processes + 1)),
        # One thread for its vectors: the streams need the other cores.
        Child("background", _background(), logs / "background.log", {"EMBEDDING_THREADS": "1", **env}),
        # Not inside the background worker: Celery would fork it off, and a killed worker would leave it behind.
        Child("beat", _beat(config), logs / "beat.log", env),
    ]


def _web(config: Config) -> list[str]:
    host, port = config.host, str(config.port)
    application = "agentsite.asgi:application"
    if config.asgi_server == "daphne":
        sizes = [f"--websocket-max-{what}-size={MAX_FRAME_BYTES}" for what in ("frame", "message")]
        return [sys.executable, "-m", "daphne", "-b", host, "-p", port, "--verbosity", "0", *sizes, application]
    options = {
        "--host": host,
        "--port": port,
        "--loop": "uvloop",
        "--http": "httptools",
        "--ws": "websockets-sansio",
        "--ws-max-size": str(MAX_FRAME_BYTES),
        "--log-level": "warning",
        "--timeout-graceful-shutdown": "3",
        "--timeout-keep-alive": "75",
        "--lifespan": "off",
    }
    words = [word for pair in options.items() for word in pair]
    return [sys.executable, "-m", "uvicorn", "--no-access-log", *words, application]


def _worker(config: Config, number: int, logs: Path, env: Mapping[str, str]) -> Child:
    """One process has one interpreter lock: on many cores several workers carry more runs."""
    name = f"worker-{number}"
    queues = ",".join(queues_of_worker(settings.WORKER_CAPABILITIES))
    argv = _celery_worker(queues, name, "-P", "threads", "-c", str(config.worker_concurrency))
    return Child(name, argv, logs / f"{name}.log", env, patience_seconds=WORKER_PATIENCE_SECONDS)


def local_model(data_dir: Path, port: int) -> Child:
    argv = [sys.executable, "-m", "agentsite.local_model", str(port)]
    return Child("model", argv, data_dir / "logs" / "model.log", patience_seconds=5.0)


def _background() -> list[str]:
    return _celery_worker("background", "background", "-P", "threads", "-c", "2")


def _celery_worker(queue: str, name: str, *options: str) -> list[str]:
    quiet = ["--loglevel", "warning", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "agentsite",
        "worker",
        "-Q",
        queue,
        "-n",
        f"{name}@%h",
        *options,
        *quiet,
    ]


def _beat(config: Config) -> list[str]:
    schedule, pid = config.data_dir / "celerybeat-schedule", ""
    options = ["--schedule", str(schedule), "--pidfile", pid, "--loglevel", "warning"]
    return [sys.executable, "-m", "celery", "-A", "agentsite", "beat", *options]

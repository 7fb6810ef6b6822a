"""What `manage.py up` is to start, from the environment."""

import errno
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from agentsite import settings


class StartError(Exception):
    """The system cannot start; the message is one line for the operator."""


@dataclass(frozen=True)
class Config:
    """`database_url` and `redis_url` are empty where the supervisor is to start its own server."""

    data_dir: Path
    host: str
    port: int
    asgi_server: str
    worker_processes: int
    worker_concurrency: int  # runs at once, of each
    database_url: str
    redis_url: str
    has_local_model: bool

    @property
    def address(self) -> str:
        """Where a person reaches the site from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(self.host, self.host)  # noqa: S104
        return f"http://{host}:{self.port}"


def read_config() -> Config:
    # Not settings.DATABASE_URL: that may come from the runtime file of a supervisor that is gone.
    return Config(
        data_dir=settings.DATA_DIR,
        host=settings.HOST,
        port=settings.PORT,
        asgi_server=settings.ASGI_SERVER,
        worker_processes=settings.env_int("WORKER_PROCESSES", 1, minimum=1),
        worker_concurrency=settings.env_int("WORKER_CONCURRENCY", 256, minimum=1),
        database_url=settings.env("DATABASE_URL"),
        redis_url=settings.env("REDIS_URL"),
        has_local_model=settings.LOCAL_MODEL,
    )


def make_data_dir(config: Config) -> None:
    """Raises StartError if it cannot be written."""
    try:
        (config.data_dir / "logs").mkdir(parents=True, exist_ok=True)
        probe = config.data_dir / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StartError(f"DATA_DIR {config.data_dir} cannot be written: {error.strerror}.") from None


def check_port(config: Config) -> None:
    """Raises StartError if somebody listens there already, or if the address is not this machine's."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
    except (OSError, TypeError) as error:  # TypeError: no domain can have such a name
        reason, hint = getattr(error, "strerror", None) or error, _listen_hint(getattr(error, "errno", None))
        raise StartError(f"Cannot listen on {config.host}:{config.port}: {reason}. {hint}") from None


def _listen_hint(number: int | None) -> str:
    if number == errno.EADDRINUSE:
        return "Stop what listens there or choose another PORT."
    if number == errno.EACCES:  # the lowest ones are root's
        return "Choose a PORT of 1024 or more."
    return "Set HOST to an address of this machine, or to 0.0.0.0 for all of them."


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def secret_key(data_dir: Path) -> str:
    """The key in the environment, or one that is made once and kept."""
    if key := settings.env("SECRET_KEY"):
        return key
    path = data_dir / "secret_key"
    if not path.exists():
        write_private(path, secrets.token_urlsafe(50))
    return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, all or nothing."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)

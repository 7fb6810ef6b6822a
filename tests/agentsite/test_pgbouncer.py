"""Behind PgBouncer in transaction mode everything works as without."""

import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.environment import DIRECTORY
from tests.fakes.processes import free_port
from tests.site import running_site


@pytest.fixture
def pooler(tmp_path: Path) -> Iterator[str]:
    """The URL of a database of the tests' PostgreSQL, by way of a PgBouncer."""
    executable = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if executable is None:
        missing = "There is no PgBouncer, so working behind it is NOT tested. Install the package pgbouncer."
        if os.environ.get("CI"):
            pytest.fail(missing)
        warnings.warn(missing, stacklevel=1)
        pytest.skip(missing)
    direct = f"postgresql://postgres@/postgres?host={DIRECTORY}/postgres"
    with psycopg.connect(direct, autocommit=True) as connection:
        connection.execute("CREATE DATABASE pooled")
    port = free_port()
    config = tmp_path / "pgbouncer.ini"
    (tmp_path / "users.txt").write_text('"postgres" ""\n')
    config.write_text(
        f"[databases]\npooled = host={DIRECTORY}/postgres dbname=pooled user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"auth_file = {tmp_path}/users.txt\npool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\n"
    )
    config.chmod(0o644)
    tmp_path.chmod(0o755)
    for folder in list(tmp_path.parents)[:3]:  # pytest's own, closed to the user that PgBouncer becomes
        folder.chmod(folder.stat().st_mode | 0o055)
    argv = [executable, str(config)]
    if os.geteuid() == 0:
        argv = [executable, "-u", "pgserver", str(config)]  # it refuses to be root, and this one may reach the socket
    process = subprocess.Popen(argv)
    url = f"postgresql://postgres@127.0.0.1:{port}/pooled"
    try:
        wait_until_it_answers(url)
        yield url
    finally:
        process.terminate()
        process.wait(10)
        with psycopg.connect(direct, autocommit=True) as connection:
            connection.execute("DROP DATABASE pooled WITH (FORCE)")


def wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_the_whole_system_works_behind_it(pooler: str) -> None:
    with running_site(DATABASE_URL=pooler) as site, site.client() as client:
        session = client.new_session()
        for number in range(12):  # more than the pooler has connections, and than a statement needs to be prepared
            assert client.ask(session, f"What is {number}+1?")["response"].endswith(f"**{number + 1}**")
        assert len(client.http.get(f"/sessions/{session}/history?limit=200").json()["messages"]) == 48
        assert "Traceback" not in site.log("web") + site.log("worker") + site.log("background")

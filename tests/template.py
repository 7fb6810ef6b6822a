"""A PostgreSQL data directory with all tables, made once: the tests' own server and each site's start from a copy."""

import os
import subprocess
import sys
from pathlib import Path

from tests.fakes.processes import PROJECT

_WHERE = "TEST_POSTGRES_TEMPLATE"  # pytest-xdist's workers have it from the process that made it


def make_template(data_dir: Path) -> None:
    """Unless there is one: initialised, migrated, stopped in good order."""
    from agentsite.supervisor.postgres import EmbeddedPostgres  # noqa: PLC0415 - it loads the settings

    if _WHERE in os.environ:
        return
    (data_dir / "logs").mkdir(parents=True)
    postgres = EmbeddedPostgres(data_dir)
    server = postgres.start()
    try:
        env = {**os.environ, "DATABASE_URL": postgres.url}
        subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=PROJECT, env=env, check=True)
    finally:
        server.ask_to_stop()
        server.wait_stopped()
    os.environ[_WHERE] = str(data_dir / "postgres")


def copy_template(data_dir: Path) -> None:
    """Let a system that has not run yet begin with it; without a template, as in the bench, it makes its own."""
    if template := os.environ.get(_WHERE):
        data_dir.mkdir(parents=True, exist_ok=True)
        # Not shutil: the files stay those of the user that PostgreSQL runs as.
        subprocess.run(["cp", "-a", template, str(data_dir / "postgres")], check=True)

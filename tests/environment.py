"""A pytest plugin that is loaded before Django's settings: real servers of the tests' own, and where they are.

PostgreSQL and Valkey as `manage.py up` embeds them, in a directory that is gone afterwards.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.template import copy_template, make_template

DIRECTORY = Path(tempfile.mkdtemp(prefix="agentsite-test-"))
os.environ.update(
    {
        "DATA_DIR": str(DIRECTORY),
        "DATABASE_URL": f"postgresql://postgres@/agentsite?host={DIRECTORY}/postgres",
        "REDIS_URL": f"unix://{DIRECTORY}/valkey/valkey.sock?db=0",
        "SECRET_KEY": "of the tests",
        "DEMO_DELAY_MS": "0",
    }
)
_children: list[Any] = []


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    # Not above: these load the settings.
    from agentsite.supervisor.postgres import EmbeddedPostgres  # noqa: PLC0415
    from agentsite.supervisor.valkey import EmbeddedValkey  # noqa: PLC0415

    if config.option.collectonly:
        return
    make_template(DIRECTORY / "template")
    is_controller = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if is_controller:  # each of pytest-xdist's workers starts its own
        return
    (DIRECTORY / "logs").mkdir()
    copy_template(DIRECTORY)
    _children.append(EmbeddedPostgres(DIRECTORY).start())
    _children.append(EmbeddedValkey(DIRECTORY).start())


def pytest_unconfigure(config: pytest.Config) -> None:
    for child in _children:
        child.ask_to_stop()
        child.wait_stopped()
    shutil.rmtree(DIRECTORY, ignore_errors=True)

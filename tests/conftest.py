import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from pytest_django.plugin import blocking_manager_key
from rest_framework.test import APIClient

from sessions_app.services.tokens import create_token
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, running_site
from tests.threads import in_all_threads

# The longest first: what begins late and takes long leaves the other processes of pytest-xdist idle at the end.
LONG_FILES = [
    "faults/test_faults.py",
    "agentsite/test_supervisor.py",
    "chat/test_local_model.py",
    "chat/test_slots.py",
    "chat/test_lost_frameworks.py",
    "chat/test_examples.py",
    "chat/test_durations.py",
    "chat/test_context.py",
    "chat/test_lost_worker.py",
    "monitoring/test_slots.py",
]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, in the order of the list; it counts where pytest-xdist does not order files by itself."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """A test with transactions of its own ends with empty tables: the rows that migrations made are put back for those
    behind it, which may run in the same process."""
    yield
    marker = item.get_closest_marker("django_db")
    if nextitem is not None and marker is not None and marker.kwargs.get("transaction"):
        with item.config.stash[blocking_manager_key].unblock():
            rows: Any = connection
            rows.creation.deserialize_db_from_string(rows._test_serialized_contents)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """Database threads keep their connections, and a database that has any cannot be removed."""
    yield
    asyncio.run(in_all_threads(lambda: connection.close()))  # in each thread another one


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """The test database begins with the tables of the template's."""
    connection.settings_dict["TEST"]["TEMPLATE"] = "agentsite"


@pytest.fixture(scope="session")
def running_fake() -> Iterator[FakeOpenAIProcess]:
    with FakeOpenAIProcess() as process:
        yield process


@pytest.fixture
def fake(running_fake: FakeOpenAIProcess) -> FakeOpenAIProcess:
    """The fake model server, with no requests seen yet."""
    running_fake.forget_requests()
    return running_fake


@pytest.fixture(scope="session")
def site(running_fake: FakeOpenAIProcess) -> Iterator[Site]:
    """The whole system, with the demo agent and a model: the fake server. Its tools act in tests.fakes.own_tools."""
    env = running_fake.site_env
    env["SWEEP_SECONDS"] = "1"
    env["MODEL_ENDPOINTS"] = f"dead=http://127.0.0.1:9/v1,marking={running_fake.base_url}"
    env["CACHE_CONTROL_ENDPOINTS"] = "marking"
    tools = ("send_mail", "produce", "slow")
    env["EXTRA_AGENT_TOOLS"] = ",".join(f"{name}=tests.fakes.own_tools.{name}" for name in tools)
    env["EXTRA_AGENT_RUNTIMES"] = "own=tests.fakes.own_agent.OwnAgent"
    env |= {"MCP_COMMANDS": sys.executable, "MCP_ENVIRONMENT": "MCP_TOKEN", "MCP_TOKEN": "secret"}
    with running_site(**env) as running:
        yield running


@pytest.fixture
def client_of_site(site: Site) -> Iterator[Client]:
    with site.client() as client:
        yield client


@pytest.fixture(scope="module")
def no_traceback(site: Site) -> Iterator[None]:
    """The tests of a file let the site log none. Other files, which share the site, may."""
    with site.logs_none_of("Traceback"):
        yield


@pytest.fixture(scope="session")
def stranger(site: Site) -> Iterator[Client]:
    """Another user of the same site."""
    code = (
        "from django.contrib.auth.models import User;"
        "from sessions_app.services.tokens import create_token;"
        "print('token', create_token(owner=User.objects.create_user('stranger'), name='t')[1])"
    )
    token = site.manage("shell", "-v", "0", "-c", code).split("token ")[1].strip()
    with site.client(token) as client:
        yield client


@pytest.fixture
def logged_in(site: Site) -> Iterator[httpx.Client]:
    """A browser's part: a client with the login cookie."""
    with httpx.Client(base_url=site.url, follow_redirects=True, timeout=30.0) as client:
        client.get("/login/")
        form = {
            "username": "admin",
            "password": site.credentials["password"],
            "csrfmiddlewaretoken": client.cookies["csrftoken"],
        }
        assert client.post("/login/", data=form).status_code == 200
        yield client


@pytest.fixture
def user(db: None) -> Any:
    return get_user_model().objects.create_user(username="owner", password="of the owner")


@pytest.fixture
def other_user(db: None) -> Any:
    return get_user_model().objects.create_user(username="other")


@pytest.fixture
def api(user: Any) -> APIClient:
    """In-process REST with the user's token."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {create_token(owner=user, name='test')[1]}")
    return client

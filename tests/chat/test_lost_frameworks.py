"""A worker is killed while a framework runs a tool that a person has approved: nobody runs it once more unasked."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chat.test_approvals import rest_of, results, settle
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, running_site

_MAKE = """
from sessions_app.models import AgentType
for name in ("pydantic", "langgraph"):
    AgentType.objects.create(name=name, runtime=name)
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("effects") / "log"


@pytest.fixture(scope="module")
def frameworks(running_fake: FakeOpenAIProcess, log: Path) -> Iterator[Site]:
    runtimes = [f"{name}=tests.fakes.framework_agents.{name}_agent" for name in ("pydantic", "langgraph")]
    env = {"OPENAI_BASE_URL": running_fake.base_url, "EXTRA_AGENT_RUNTIMES": ",".join(runtimes), "TOOL_LOG": str(log)}
    env |= {"RUN_LEASE_SECONDS": "3", "DRAIN_SECONDS": "1", "SWEEP_SECONDS": "1"}
    with running_site(**env) as site:
        site.manage("shell", "-v", "0", "-c", _MAKE)
        yield site


def kill_workers(site: Site) -> None:
    for child in psutil.Process(site.process.pid).children():
        if "runs" in child.cmdline():
            child.kill()


def wait_for_approval(client: Client, session: str, reason: str) -> dict[str, str]:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        for approval in client.http.get(f"/sessions/{session}/approvals").json():
            if approval["reason"] == reason:
                return dict(approval)
        time.sleep(0.1)  # between looks
    raise AssertionError(f"nobody is asked: {reason}")


@pytest.mark.parametrize("framework", ["pydantic", "langgraph"])
def test_an_approved_tool_of_a_lost_worker_is_settled_not_repeated(frameworks: Site, log: Path, framework: str) -> None:
    log.write_text("")
    with frameworks.client() as client:
        session = client.new_session(framework)
        answer = client.ask(session, '[[tool=charge args={"amount": 5}]]')
        (approval,) = answer["approvals"]
        settle(client, approval, decision="approved")
        deadline = time.monotonic() + 30.0
        while not log.read_text():
            assert time.monotonic() < deadline, "the tool does not start"
            time.sleep(0.02)  # between looks
        kill_workers(frameworks)
        question = wait_for_approval(client, session, "outcome_unknown")
        settle(client, question, decision="happened", result="charged")
        events = rest_of(client, session)
    assert results(events) == ["charged"]
    assert events[-1]["type"] == "done"
    assert log.read_text() == "started\n"

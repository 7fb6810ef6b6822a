"""Tools of MCP servers, which are real ones: over stdio and over HTTP, dead ones too."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.fakes.processes import PROJECT, FakeOpenAIProcess, free_port
from tests.site import Client, Site

COMMAND = [sys.executable, "-m", "tests.fakes.mcp_server"]
_MAKE = """
import json
from sessions_app.models import AgentType, McpServer
command, port = json.loads('''{command}'''), {port}
McpServer.objects.create(name="local", transport="stdio", command=command, timeout_seconds=2, idempotent_tools=["pid"])
McpServer.objects.create(name="remote", url=f"http://127.0.0.1:{{port}}/mcp", allowed_tools=["add"],
    headers={{"Authorization": "Bearer $MCP_TOKEN"}})
McpServer.objects.create(name="dead", url="http://127.0.0.1:9/mcp")
McpServer.objects.create(name="off", transport="stdio", command=command, is_enabled=False)
AgentType.objects.create(name="mcp", runtime="chat", tools=["calculator"], mcp_servers=["local", "remote"])
AgentType.objects.create(name="half", runtime="chat", mcp_servers=["dead", "local", "off"])
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of an MCP server that speaks HTTP."""
    port = free_port()
    process = subprocess.Popen([*COMMAND, str(port)], cwd=PROJECT)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.05)  # between looks
    yield port
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def mcp_site(site: Site, port: int) -> Iterator[Site]:
    """With servers and agents that use them; the servers are gone afterwards, and so are their processes."""
    site.manage("shell", "-v", "0", "-c", _MAKE.format(command=json.dumps(COMMAND), port=port))
    yield site
    site.manage("shell", "-v", "0", "-c", "from sessions_app.models import McpServer; McpServer.objects.all().delete()")


@pytest.fixture
def client(mcp_site: Site) -> Iterator[Client]:
    with mcp_site.client() as client:
        yield client


def result_of(client: Client, call: str, agent: str = "mcp") -> Any:
    answer = client.ask(client.new_session(agent), f"[[{call}]]")
    assert answer["status"] == "succeeded", answer
    return answer["tool_calls"][0]["result"]


def test_tools_of_both_kinds_of_servers_are_offered_and_called(client: Client, fake: FakeOpenAIProcess) -> None:
    assert result_of(client, 'tool=local_add args={"a": 2, "b": 3}') == {"result": 5}
    assert result_of(client, 'tool=remote_add args={"a": 4, "b": 5}') == {"result": 9}
    offered = [tool["function"]["name"] for tool in fake.requests()[0]["body"]["tools"]]
    assert offered[:2] == ["calculator", "local_add"]
    assert [name for name in offered if name.startswith("remote")] == ["remote_add"]


def test_what_goes_wrong_is_told_to_the_model(client: Client) -> None:
    assert "Error executing tool fail" in result_of(client, "tool=local_fail")
    assert result_of(client, "tool=local_hang") == "The tool local_hang did not answer in time."
    assert result_of(client, 'tool=local_add args={"a": "x"}').startswith("The arguments do not fit")


def test_the_connection_is_kept_and_opened_again_when_its_server_dies(client: Client) -> None:
    first = result_of(client, "tool=local_pid")
    assert result_of(client, "tool=local_pid") == first
    psutil.Process(first["result"]).kill()
    assert "local" in str(result_of(client, "tool=local_pid"))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = result_of(client, "tool=local_pid")
        if isinstance(found, dict):
            break
    assert found != first
    assert "local" in result_of(client, "tool=local_die")


def test_a_dead_server_is_told_of_and_skipped(client: Client, mcp_site: Site) -> None:
    events = client.chat(client.new_session("half"), "Hello")
    told = [(event["status"], event["mcp_server"]) for event in events if event["type"] == "status"]
    assert ("tools_unavailable", "dead") in told
    assert ("tools_unavailable", "off") in told
    assert events[-1]["type"] == "done"
    code = (
        "from sessions_app.models import McpServer as M; print([(m.name, m.last_error != '') for m in M.objects.all()])"
    )
    assert "('dead', True)" in mcp_site.manage("shell", "-v", "0", "-c", code)


def test_the_key_goes_along_from_the_environment_only(mcp_site: Site) -> None:
    code = "from sessions_app.models import McpServer as M; print(M.objects.get(name='remote').headers)"
    assert "secret" not in mcp_site.manage("shell", "-v", "0", "-c", code)

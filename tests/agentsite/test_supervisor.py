"""`manage.py up`: one command for everything, also when it is killed."""

import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from agentsite.supervisor.leftovers import record_processes
from tests.fakes.processes import PROJECT, FakeOpenAIProcess
from tests.site import Site
from tests.template import copy_template


@contextmanager
def a_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="agentsite up "))  # a space: paths have them
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def directory() -> Iterator[Path]:
    with a_directory() as path:
        yield path


@contextmanager
def started(site: Site) -> Iterator[Site]:
    site.start()
    try:
        yield site.wait_ready()
    finally:
        site.stop()


@pytest.fixture(scope="module")
def lasting_site() -> Iterator[Site]:
    """For tests that leave it running. It begins with nothing, as on a first run."""
    with a_directory() as path, started(Site(path / "data")) as site:
        yield site


@pytest.fixture
def own_site(directory: Path) -> Iterator[Site]:
    """For tests that end it."""
    copy_template(directory / "data")
    with started(Site(directory / "data")) as site:
        yield site


def processes_of(site: Site) -> list[psutil.Process]:
    """Everything that runs for this data directory, whoever its parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("DATA_DIR") == str(site.data_dir) or any(
                str(site.data_dir) in word for word in process.cmdline()
            )
        except psutil.Error:
            continue
        if mine and process.pid != os.getpid():
            found.append(process)
    return found


def wait_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30.0)
    assert not alive


def child(site: Site, word: str) -> psutil.Process:
    return next(p for p in psutil.Process(site.process.pid).children() if word in " ".join(p.cmdline()))


def test_a_first_run_makes_credentials_and_a_login_link(lasting_site: Site) -> None:
    path = lasting_site.data_dir / "credentials.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(lasting_site.credentials) == {"username", "password", "token"}
    with httpx.Client(follow_redirects=True) as browser:
        assert browser.get(lasting_site.login_link()).status_code == 200
        assert browser.get(lasting_site.url + "/admin/").status_code == 200
    assert httpx.get(lasting_site.login_link()).status_code == 410
    assert lasting_site.log("web").count("Traceback") == 0


def test_a_second_one_on_the_same_data_changes_nothing(lasting_site: Site) -> None:
    second = Site(lasting_site.data_dir)
    second._log = lasting_site.data_dir / "second.log"
    second.start()
    assert second.process.wait(30) == 1
    assert f"Already running on {lasting_site.data_dir}: process {lasting_site.process.pid}" in second.output
    assert httpx.get(lasting_site.url + "/health").status_code == 200


@pytest.mark.parametrize(
    ("name", "word"), [("web", "agentsite.asgi"), ("worker-1", "worker-1@%h"), ("valkey", "valkey-server")]
)
def test_a_child_that_dies_is_started_again(name: str, word: str, lasting_site: Site) -> None:
    with lasting_site.client() as client:
        session = client.new_session()
        dead = child(lasting_site, word)
        dead.kill()
        deadline = time.monotonic() + 30
        while True:  # until the site is whole again
            try:
                report = client.http.get("/health/detailed").json()
                if report["status"] == "healthy" and not dead.is_running() and child(lasting_site, word):
                    break
            except (httpx.HTTPError, StopIteration):
                pass
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert client.ask(session, "hello")["status"] == "succeeded"
    assert f"{name} ended (SIGKILL), starting again in 0.5 s" in lasting_site.output


def test_after_sigkill_the_next_start_keeps_the_data_and_leaves_nobody_behind(own_site: Site) -> None:
    with own_site.client() as client:
        session = client.new_session()
        answer = client.ask(session, "What is 5*5?")
    left = processes_of(own_site)
    own_site.process.kill()
    own_site.process.wait()
    orphans = [process for process in left if process.is_running() and process.pid != own_site.process.pid]
    assert len(orphans) >= 5  # the databases and what serves: that is the point of the test
    own_site.start()
    own_site.wait_ready()
    assert "that a killed supervisor had left" in own_site.output
    wait_gone(orphans)
    with own_site.client() as client:
        history = client.http.get(f"/sessions/{session}/history").json()["messages"]
        assert history[-1]["content"] == answer["response"]
        assert client.ask(session, "again")["status"] == "succeeded"


def wait_said(site: Site, words: str) -> None:
    deadline = time.monotonic() + 30
    while words not in site.output:
        assert time.monotonic() < deadline, site.output
        time.sleep(0.05)


def test_after_sigkill_the_next_start_ends_the_databases_last_and_charges_no_run(
    directory: Path, running_fake: FakeOpenAIProcess
) -> None:
    copy_template(directory / "data")
    env = {**running_fake.site_env, "DRAIN_SECONDS": "1"}
    with started(Site(directory / "data", **env)) as site, site.client() as client:
        session = client.new_session("chat")
        asked = {"message": "[[tokens=3000 delay_ms=10]]"}  # longer than the old worker and the start take together
        with client.stream("POST", f"/sessions/{session}/chat", json=asked) as events:
            assert next(events)["type"] == "message"
            cursor = next(events)["id"]
        worker, *databases = (child(site, word) for word in ("worker-1@%h", "bin/postgres", "valkey-server"))
        worker.suspend()  # it ends when it is let go on: what comes before that is seen, however fast the machine
        site.process.kill()
        site.process.wait()
        site.start()
        wait_said(site, "Ending the site and workers that a killed supervisor had left (4 processes, 11 s at most) ...")
        assert "Ending the databases" not in site.output
        assert all(database.status() != psutil.STATUS_ZOMBIE for database in databases)
        worker.resume()
        site.wait_ready()
        assert "Ending the databases that a killed supervisor had left (2 processes, 60 s at most) ..." in site.output
        wait_gone([worker, *databases])
        with client.stream("GET", f"/sessions/{session}/events", params={"after": cursor}) as events:
            assert next(event["type"] for event in events if event["type"] != "response") == "discard"
            assert next(events)["type"] == "response"
        run = client.http.get(f"/sessions/{session}/runs").json()["results"][0]
        assert (run["status"], run["attempt"]) == ("running", 1)


def test_what_ended_is_not_waited_for_though_its_parent_takes_no_notice(directory: Path) -> None:
    """As in a container whose first process is no init."""
    code = "import sys; from agentsite.supervisor.leftovers import *; end_leftovers(Path(sys.argv[1]), print)"
    with subprocess.Popen(["sleep", "60"]) as left:
        record_processes(directory, [left.pid])
        # Below the patience with a worker.
        subprocess.run([sys.executable, "-c", code, str(directory)], cwd=PROJECT, check=True, timeout=10)
        assert left.wait() == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_everything_in_good_order(number: int, own_site: Site) -> None:
    running = processes_of(own_site)
    assert len(running) >= 6
    assert own_site.stop(number) == 0
    wait_gone(running)
    assert "database system is shut down" in own_site.log("postgres")
    assert "Traceback" not in own_site.output
    assert not (own_site.data_dir / "runtime.json").exists()


def test_other_commands_find_its_databases(lasting_site: Site) -> None:
    code = "from django.contrib.auth.models import User; print(User.objects.get().username)"
    assert lasting_site.manage("shell", "-v", "0", "-c", code).strip() == "admin"


def failed_start(directory: Path, **env: str) -> str:
    copy_template(directory / "data")
    site = Site(directory / "data", **env)
    site.start()
    assert site.process.wait(60) == 1
    assert not re.search("Traceback|WARNING|ERROR", site.output)
    assert not processes_of(site)
    return next(line for line in site.output.splitlines() if line.startswith("agentsite: "))


def test_a_port_in_use_is_one_clear_line(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = failed_start(directory, PORT=str(port))
    assert said.startswith(f"agentsite: Cannot listen on 127.0.0.1:{port}: Address already in use.")
    assert said.endswith(" Stop what listens there or choose another PORT.")


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("192.0.2.1", id="an address of documentation, which no machine has"),
        pytest.param("no-such-host.invalid", id="a name that does not resolve"),
        pytest.param("ä..b", id="what cannot be a name"),
        pytest.param("2001:db8::1", id="the same of IPv6"),
    ],
)
def test_a_host_that_is_not_this_machine_is_one_clear_line(host: str, directory: Path) -> None:
    said = failed_start(directory, HOST=host)
    assert said.startswith(f"agentsite: Cannot listen on {host}:")
    assert said.endswith(" Set HOST to an address of this machine, or to 0.0.0.0 for all of them.")


def test_a_wrong_database_url_is_one_clear_line(directory: Path) -> None:
    said = failed_start(directory, DATABASE_URL="postgresql://me:secret@127.0.0.1:1/x")
    assert said == "agentsite: The database 'x' at 127.0.0.1 cannot be reached. Check DATABASE_URL."


def test_a_wrong_redis_url_is_one_clear_line(directory: Path) -> None:
    assert failed_start(directory, REDIS_URL="redis://127.0.0.1:1/0").startswith("agentsite: Redis cannot be reached")


def test_a_missing_model_key_is_one_clear_line(directory: Path) -> None:
    env = {"AGENT_MODEL": "gpt-x", "OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}
    assert "neither OPENAI_API_KEY nor OPENAI_BASE_URL" in failed_start(directory, **env)


# As nobody, but able to read a checkout or a Python below /root.
AS_NOBODY = [
    *("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
]


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_can_run_it(directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    site = Site(directory / "data", HOME=str(directory))
    site.start(as_user=AS_NOBODY)
    try:
        site.wait_ready()
        assert set(psutil.Process(site.process.pid).uids()) == {nobody.pw_uid}
        with site.client() as client:
            assert client.ask(client.new_session(), "hello")["status"] == "succeeded"
    finally:
        assert site.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="it needs to become somebody who may not")
def test_a_port_that_is_only_roots_is_one_clear_line(directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    site = Site(directory / "data", PORT="81", HOME=str(directory))
    site.start(as_user=AS_NOBODY)
    assert site.process.wait(60) == 1
    hint = "Choose a PORT of 1024 or more."
    assert site.output == f"agentsite: Cannot listen on 127.0.0.1:81: Permission denied. {hint}\n"

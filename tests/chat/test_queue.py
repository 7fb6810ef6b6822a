"""Messages that come while a turn runs wait, first in, first out."""

import itertools
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fakes.processes import PROJECT, FakeOpenAIProcess
from tests.site import Client, Site, running_site, text_of


def test_turns_of_one_session_run_one_after_the_other(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")

    def send(number: int) -> list[dict[str, object]]:
        with site.client() as client:
            return client.chat(session, f"turn {number} [[tokens=20 delay_ms=5]]")

    with ThreadPoolExecutor(5) as pool:
        tapes = list(pool.map(send, range(5)))
    for tape in tapes:
        assert text_of(tape) == "".join(f"tok{n} " for n in range(20))
        assert (tape[0]["type"], tape[-1]["type"]) == ("message", "done")
        assert len({str(event["id"]).split("-")[0] for event in tape}) == 1
    history = client_of_site.http.get(f"/sessions/{session}/history").json()["messages"]
    assert [message["role"] for message in history] == ["user", "assistant"] * 5
    runs = client_of_site.http.get(f"/sessions/{session}/runs").json()["results"]
    starts_and_ends = [(run["started_at"], run["finished_at"]) for run in reversed(runs)]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(starts_and_ends))


def test_the_queue_is_bounded(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")
    url = f"/sessions/{session}/chat"
    running = {"message": "[[tokens=5000 delay_ms=10]]"}

    def send(_: int) -> int:
        with site.client() as client, client.http.stream("POST", url, json=running) as response:
            return response.status_code  # and hang up: the run goes on

    with client_of_site.stream("POST", url, json=running) as events:
        assert next(events)["type"] == "message"
        with ThreadPoolExecutor(6) as pool:
            statuses = list(pool.map(send, range(14)))
        assert sorted(statuses) == [200] * 10 + [429] * 4
        with site.client() as client:
            refused = client.http.post(url, json=running)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
            assert int(refused.headers["Retry-After"]) > 0
            assert client.http.post(f"/sessions/{session}/cancel").status_code in (200, 202)


def test_a_burst_is_executed_within_the_workers_concurrency(fake: FakeOpenAIProcess) -> None:
    with running_site(**fake.site_env, WORKER_CONCURRENCY="2") as site, site.client() as client:
        sessions = [client.new_session("chat") for _ in range(12)]

        def send(session: str) -> str:
            with site.client() as own:
                return text_of(own.chat(session, "[[tokens=10 delay_ms=20]]"))

        with ThreadPoolExecutor(12) as pool:
            assert set(pool.map(send, sessions)) == {"".join(f"tok{n} " for n in range(10))}
        runs = [client.http.get(f"/sessions/{session}/runs").json()["results"][0] for session in sessions]
        begun = [(run["started_at"], 1) for run in runs]
        ended = [(run["finished_at"], -1) for run in runs]
        at_once = itertools.accumulate(change for _, change in sorted(begun + ended))
        assert max(at_once) == 2


@pytest.mark.parametrize("is_there", [False, True], ids=["gone", "silent"])
def test_a_broker_that_takes_nothing_loses_nothing(site: Site, client_of_site: Client, is_there: bool) -> None:
    session = client_of_site.new_session("demo")
    code = (
        "from sessions_app.models import AgentSession; from sessions_app.services.accepting import accept_turn;"
        "from chat.runs.dispatch import dispatch_soon;"
        f"session = AgentSession.objects.get(pk='{session}');"
        "dispatch_soon(accept_turn(user=session.owner, session_id=session.pk, message='2+2').run_id)"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if is_there else 9
        subprocess.run(
            [sys.executable, "manage.py", "shell", "-v", "0", "-c", code],
            cwd=PROJECT,
            env={**site.env, "CELERY_BROKER_URL": f"redis://127.0.0.1:{port}/0"},
            check=True,
            timeout=60.0,
        )
    deadline = time.monotonic() + 20.0
    while client_of_site.http.get(f"/sessions/{session}/runs").json()["results"][0]["status"] != "succeeded":
        assert time.monotonic() < deadline
        time.sleep(0.1)

"""A run outlives its worker: another one goes on with it, and the client's stream never ends meanwhile."""

import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Site, running_site, text_of


def workers_of(site: Site) -> list[psutil.Process]:
    children = psutil.Process(site.process.pid).children()
    return [child for child in children if any(word.startswith("worker-") for word in child.cmdline())]


@pytest.fixture(scope="module")
def lossy(running_fake: FakeOpenAIProcess) -> Iterator[Site]:
    """A site that notices lost workers soon, and has new ones soon however many it has lost."""
    env = {"RUN_LEASE_SECONDS": "3", "DRAIN_SECONDS": "1", "SWEEP_SECONDS": "1", "RESTART_BACKOFF_SECONDS": "1"}
    with running_site(**running_fake.site_env, **env, WORKER_PROCESSES="2") as site:
        yield site


def test_a_killed_workers_run_goes_to_another_one(lossy: Site) -> None:
    with lossy.client() as client, lossy.client() as other:
        session = client.new_session("chat")
        asked = {"message": "[[tokens=300 delay_ms=10]]"}
        with client.stream("POST", f"/sessions/{session}/chat", json=asked, timeout=60.0) as events:
            assert next(events)["type"] == "message"
            assert next(events)["type"] == "response"
            waiting = other.stream("POST", f"/sessions/{session}/chat", json={"message": "[[tokens=3]]"}, timeout=60.0)
            with waiting as next_turn:
                for worker in workers_of(lossy):
                    worker.kill()
                rest = list(events)
                assert [event["type"] for event in next_turn][-1] == "done"
        at = next(index for index, event in enumerate(rest) if event["type"] == "discard")
        assert (rest[at]["reason"], rest[at]["attempt"], rest[at]["since"]) == ("new_attempt", 2, None)
        assert rest[-1]["type"] == "done"
        history = client.http.get(f"/sessions/{session}/history").json()["messages"]
        assert text_of(rest[at:]) == history[1]["content"]
        runs = client.http.get(f"/sessions/{session}/runs").json()["results"]
        assert [(run["status"], run["attempt"]) for run in runs] == [("succeeded", 1), ("succeeded", 2)]


def test_a_run_whose_workers_all_die_fails_and_its_session_goes_on(lossy: Site) -> None:
    with lossy.client() as client:
        session = client.new_session("chat")
        asked = {"message": "[[tokens=9000 delay_ms=10]]"}
        with client.stream("POST", f"/sessions/{session}/chat", json=asked, timeout=60.0) as events:
            kinds = []
            for event in events:
                if event["type"] in ("message", "discard") and event.get("reason") != "worker_lost":
                    for worker in workers_of(lossy):
                        worker.kill()
                kinds.append((event["type"], event.get("reason") or event.get("code")))
        told = [kind for kind in kinds if kind[0] != "response"]
        assert told == [
            ("message", None),
            ("discard", "new_attempt"),
            ("discard", "new_attempt"),
            ("discard", "worker_lost"),
            ("error", "worker_lost"),
        ]
        assert client.ask(session, "[[tokens=3]]")["status"] == "succeeded"


def test_a_worker_that_is_stopped_hands_its_runs_over_without_charging_them(lossy: Site) -> None:
    with lossy.client() as client:
        session = client.new_session("chat")
        asked = {"message": "[[tokens=300 delay_ms=10]]"}
        with client.stream("POST", f"/sessions/{session}/chat", json=asked, timeout=60.0) as events:
            assert next(events)["type"] == "message"
            assert next(events)["type"] == "response"
            for worker in workers_of(lossy):
                worker.send_signal(signal.SIGTERM)
            rest = list(events)
        assert [event["type"] for event in rest if event["type"] != "response"] == ["discard", "done"]
        run = client.http.get(f"/sessions/{session}/runs").json()["results"][0]
        assert (run["status"], run["attempt"]) == ("succeeded", 1)

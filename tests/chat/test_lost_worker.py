"""A worker that is killed leaves no run behind for ever."""

import psutil

from tests.fakes.processes import FakeOpenAIProcess
from tests.site import running_site


def test_a_killed_workers_run_fails_and_its_session_goes_on(fake: FakeOpenAIProcess) -> None:
    env = {"AGENT_MODEL": "fake-model", "OPENAI_BASE_URL": fake.base_url, "OPENAI_API_KEY": "test"}
    with running_site(**env) as site, site.client() as client, site.client() as other:
        session = client.new_session("chat")
        with client.stream(
            "POST", f"/sessions/{session}/chat", json={"message": "[[tokens=9000 delay_ms=10]]"}, timeout=60.0
        ) as events:
            assert next(events)["type"] == "message"
            assert next(events)["type"] == "response"
            waiting = other.stream("POST", f"/sessions/{session}/chat", json={"message": "[[tokens=3]]"}, timeout=60.0)
            with waiting as next_turn:
                for process in psutil.Process(site.process.pid).children():
                    if any(word.startswith("worker-") for word in process.cmdline()):
                        process.kill()
                rest = [event for event in events if event["type"] != "response"]
                assert [event["type"] for event in rest] == ["discard", "error"]
                assert (rest[0]["reason"], rest[1]["code"]) == ("worker_lost", "worker_lost")
                assert [event["type"] for event in next_turn][-1] == "done"
        statuses = [run["status"] for run in client.http.get(f"/sessions/{session}/runs").json()["results"]]
        assert statuses == ["succeeded", "failed"]

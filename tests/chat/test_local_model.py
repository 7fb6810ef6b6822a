"""The real model in the box: it streams, gives its slot back when it is cancelled, and its usage is true."""

import json
import time
import urllib.request
from collections.abc import Iterator

import pytest

from tests.site import Client, Site, running_site, text_of


@pytest.fixture(scope="module")
def local_site() -> Iterator[Site]:
    with running_site(LOCAL_MODEL="1") as site:
        yield site


@pytest.fixture
def client(local_site: Site) -> Iterator[Client]:
    with local_site.client() as client:
        yield client


def busy_slots(site: Site) -> int:
    with urllib.request.urlopen(f"{site.runtime['local_model_url']}/slots", timeout=10.0) as response:
        return sum(slot["is_processing"] for slot in json.load(response))


def wait_for_busy_slots(site: Site, count: int) -> None:
    deadline = time.monotonic() + 20.0
    while (found := busy_slots(site)) != count:
        assert time.monotonic() < deadline, f"{found} slots are busy"
        time.sleep(0.02)  # between looks


def test_it_streams_and_its_usage_is_its_own(client: Client, local_site: Site) -> None:
    session = client.new_session("local")
    events = client.chat(session, "Name three colours.")
    assert events[-1]["type"] == "done", events[-1]
    assert len(text_of(events)) > 3
    assert sum(event["type"] == "response" for event in events) > 1
    usage = events[-1]["usage"]
    assert 1 < usage["output_tokens"] <= 500
    assert usage["input_tokens"] > 10
    code = "from sessions_app.models import UsageRecord as U; u = U.objects.get(); print([(u.model, u.is_estimated)])"
    assert "[('smollm2', False)]" in local_site.manage("shell", "-v", "0", "-c", code)


def test_a_cancel_frees_its_slot(client: Client, local_site: Site) -> None:
    session = client.new_session("local")
    message = {"message": "Write a very long story about the sea, with many chapters."}
    with client.stream("POST", f"/sessions/{session}/chat", json=message) as events:
        assert next(event for event in events if event["type"] == "response")
        wait_for_busy_slots(local_site, 1)
        client.http.post(f"/sessions/{session}/cancel")
        assert list(events)[-1]["type"] == "cancelled"
    wait_for_busy_slots(local_site, 0)


def test_a_long_conversation_fits_its_small_window(client: Client) -> None:
    client.http.timeout = 110.0  # it reads some hundred tokens a second
    session = client.new_session("local")
    answer = client.ask(session, "word " * 2_000)
    assert answer["status"] == "succeeded", answer
    assert client.ask(session, "word " * 1_500)["status"] == "succeeded"

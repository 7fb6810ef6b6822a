"""A model that fails before its first token is asked again, and then another one is."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from chat.agents.retrying import LONGEST_PAUSE_SECONDS, UnavailableError, pause_before_retry, read_retry_after
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, text_of

_MAKE = """
from sessions_app.models import AgentType
AgentType.objects.create(name="patient", runtime="chat", model_retries=2)
AgentType.objects.create(name="doubled", runtime="chat", model="any@dead", model_retries=0, fallback_models=["second"])
AgentType.objects.create(name="stranded", runtime="chat", model="any@dead", model_retries=1)
schema = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
AgentType.objects.create(name="structured", runtime="chat", response_schema=schema, max_output_tokens=77)
AgentType.objects.create(name="hasty", runtime="chat", max_run_seconds=1)
"""


@pytest.fixture(scope="module")
def agents(site: Site) -> None:
    site.manage("shell", "-v", "0", "-c", _MAKE)


@pytest.fixture
def client(agents: None, client_of_site: Client) -> Client:
    return client_of_site


def statuses(events: list[dict[str, Any]]) -> list[str]:
    return [event["status"] for event in events if event["type"] == "status"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_it_is_asked_again(client: Client, fake: FakeOpenAIProcess, status: int) -> None:
    events = client.chat(client.new_session("patient"), f"[[status={status} times=1]] Hello {status}")
    assert statuses(events) == ["retrying"]
    assert text_of(events) == f"You said: Hello {status}"
    assert len(fake.requests()) == 2


def test_what_cannot_help_is_not_tried(client: Client, fake: FakeOpenAIProcess) -> None:
    events = client.chat(client.new_session("patient"), "[[status=400]]")
    assert statuses(events) == []
    assert events[-1]["type"] == "error"
    assert len(fake.requests()) == 1


def test_after_the_first_token_nothing_is_repeated(client: Client, fake: FakeOpenAIProcess) -> None:
    events = client.chat(client.new_session("patient"), "[[tokens=20 cut=5]]")
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "model_error")
    assert len(fake.requests()) == 1


def test_another_model_takes_over(client: Client, fake: FakeOpenAIProcess) -> None:
    events = client.chat(client.new_session("doubled"), "Hello")
    assert statuses(events) == ["fallback"]
    assert text_of(events) == "You said: Hello"
    assert fake.requests()[0]["body"]["model"] == "second"


def test_an_endpoint_that_is_down_or_no_endpoint_ends_in_an_error(client: Client) -> None:
    events = client.chat(client.new_session("stranded"), "Hello")
    assert statuses(events) == ["retrying"]
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "model_error")
    events = client.chat(client.new_session("chat"), "[[html]]")
    assert "did not answer with a stream" in events[-1]["message"]


def test_an_answer_fits_the_schema_or_fails(client: Client, fake: FakeOpenAIProcess) -> None:
    events = client.chat(client.new_session("structured"), "Hello")
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "schema_violation")
    asked = fake.requests()[-1]["body"]
    assert asked["response_format"]["json_schema"]["schema"]["required"] == ["colour"]
    assert asked["max_tokens"] == 77


def test_a_run_that_takes_too_long_ends(client: Client, site: Site) -> None:
    with site.logs_none_of("Traceback"):
        events = client.chat(client.new_session("hasty"), "[[tokens=900 delay_ms=20]]")
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "run_timeout")


def test_a_length_stop_is_told(client: Client) -> None:
    events = client.chat(client.new_session("chat"), "[[tokens=3 length]]")
    assert (events[-1]["type"], events[-1]["finish_reason"]) == ("done", "length")


def test_pauses_grow_and_scatter() -> None:
    error = UnavailableError()
    assert [pause_before_retry(attempt, error, lambda: 1.0) for attempt in (0, 1, 2)] == [0.5, 1.0, 2.0]
    assert pause_before_retry(0, error, lambda: 0.0) == 0.25
    assert pause_before_retry(50, error, lambda: 1.0) == LONGEST_PAUSE_SECONDS
    assert pause_before_retry(0, UnavailableError(is_final=True), lambda: 1.0) is None
    assert pause_before_retry(0, UnavailableError(retry_after=7.0), lambda: 1.0) == 7.0
    assert pause_before_retry(0, UnavailableError(retry_after=3_600.0), lambda: 1.0) is None


def test_retry_after_is_a_number_or_a_date() -> None:
    assert read_retry_after("3") == 3.0
    assert read_retry_after("-3") == 0.0
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25.0 < (read_retry_after(date) or 0.0) <= 30.0
    assert read_retry_after("soon") is None
    assert read_retry_after("") is None

"""Prompts begin with the same bytes from turn to turn, so that providers find them in their caches."""

from itertools import pairwise
from typing import Any

import orjson
import pytest

from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site

_MAKE = """
from sessions_app.models import AgentType
AgentType.objects.create(name="marked", runtime="chat", model="fake-model@marking", system_prompt="Be brief. " * 50,
    tools=["calculator", "clock"])
"""


@pytest.fixture(scope="module")
def caching(site: Site) -> Site:
    """With an agent whose model wants marks."""
    site.manage("shell", "-v", "0", "-c", _MAKE)
    return site


def texts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages without the marks."""
    plain = []
    for message in messages:
        content = message["content"]
        plain.append({**message, "content": content[0]["text"] if isinstance(content, list) else content})
    return plain


def test_what_was_sent_is_the_beginning_of_what_is_sent_next(caching: Site, fake: FakeOpenAIProcess) -> None:
    with caching.client() as client:
        session = client.new_session("marked")
        client.ask(session, '[[tool=clock args={"timezone": "UTC"} tool=calculator args={"expression": "1+1"}]]')
        client.ask(session, "Second")
        client.ask(session, "Third")
    asked = [request["body"] for request in fake.requests()]
    assert len(asked) == 4
    for earlier, later in pairwise(asked):
        assert orjson.dumps(earlier["tools"]) == orjson.dumps(later["tools"])
        before, after = texts(earlier["messages"]), texts(later["messages"])
        assert orjson.dumps(after[: len(before)]) == orjson.dumps(before)
        assert list(earlier) == list(later)


def test_marks_and_cached_tokens(caching: Site) -> None:
    with caching.client() as client:
        session = client.new_session("marked")
        first = client.ask(session, "[[tokens=2 prefill_us=1]]")
        second = client.ask(session, "[[tokens=3 prefill_us=1]]")
    assert first["usage"]["cached_tokens"] in (0, 100)  # the system prompt is known if another test had it read
    assert second["usage"]["cached_tokens"] > 100


def test_without_marks_nothing_is_sent_that_others_do_not_know(client_of_site: Client, fake: FakeOpenAIProcess) -> None:
    client_of_site.ask(client_of_site.new_session("chat"), "Hello")
    body = fake.requests()[-1]["body"]
    assert all(isinstance(message["content"], str) for message in body["messages"])
    assert set(body) == {"model", "messages", "stream", "stream_options", "tools", "max_tokens"}

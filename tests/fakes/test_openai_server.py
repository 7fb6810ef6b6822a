"""The fake model server, as its clients see it over HTTP."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from tests.fakes.processes import FakeOpenAIProcess


@pytest.fixture(scope="module")
def running_fake() -> Iterator[FakeOpenAIProcess]:
    with FakeOpenAIProcess() as process:
        yield process


@pytest.fixture
def fake(running_fake: FakeOpenAIProcess) -> FakeOpenAIProcess:
    running_fake.forget_requests()
    return running_fake


def ask(fake: FakeOpenAIProcess, text: str, *more: dict[str, Any], **options: Any) -> httpx.Response:
    messages = [{"role": "user", "content": text}, *more]
    body = {"model": "fake-model", "messages": messages, **options}
    return httpx.post(f"{fake.base_url}/chat/completions", json=body, timeout=10)


def stream(fake: FakeOpenAIProcess, text: str, *more: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """The stream's chunks; each must be an SSE event of one data line, the last of them [DONE]."""
    events = ask(fake, text, *more, stream=True, **options).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks: list[dict[str, Any]] = [orjson.loads(event.removeprefix("data: ")) for event in events[:-2]]
    return chunks


def joined(chunks: list[dict[str, Any]], field: str) -> str:
    return "".join(chunk["choices"][0]["delta"].get(field, "") for chunk in chunks if chunk["choices"])


def test_it_streams_the_tokens_asked_for_and_usage_last(fake: FakeOpenAIProcess) -> None:
    chunks = stream(fake, "hi [[tokens=100 reasoning=2]]", stream_options={"include_usage": True})
    assert joined(chunks, "content") == "".join(f"tok{i} " for i in range(100))
    assert joined(chunks, "reasoning_content") == "think0 think1 "
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 102


def test_it_keeps_the_pace(fake: FakeOpenAIProcess) -> None:
    started = time.monotonic()
    stream(fake, "[[tokens=21 delay_ms=10]]")
    assert time.monotonic() - started >= 0.2


def test_it_answers_whole_what_it_streams_in_pieces(fake: FakeOpenAIProcess) -> None:
    assert joined(stream(fake, "hello there"), "content") == "You said: hello there"
    whole = ask(fake, "hello there").json()
    assert whole["choices"][0]["message"]["content"] == "You said: hello there"
    assert whole["usage"]["total_tokens"] == 6


def test_it_calls_tools_then_tells_their_results(fake: FakeOpenAIProcess) -> None:
    text = '[[tool=calculator args={"expression": "2+2"} tool=clock tokens=2]]'
    arguments = {0: "", 1: ""}
    chunks = stream(fake, text)
    for chunk in chunks:
        for call in chunk["choices"][0]["delta"].get("tool_calls", []):
            arguments[call["index"]] += call["function"]["arguments"]
    assert arguments == {0: '{"expression": "2+2"}', 1: "{}"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"

    called = {"role": "assistant", "tool_calls": [{"id": "a"}, {"id": "b"}]}
    results = [{"role": "tool", "content": "4"}, {"role": "tool", "content": "noon"}]
    assert joined(stream(fake, text, called, *results), "content") == "Tool results: 4; noon. tok0 tok1 "


def test_it_sends_broken_arguments_as_they_are(fake: FakeOpenAIProcess) -> None:
    message = ask(fake, '[[tool=clock args="{not json"]]').json()["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == "{not json"


@pytest.mark.parametrize(
    ("status", "code"), [(429, "rate_limit_exceeded"), (401, "invalid_api_key"), (500, "server_error")]
)
def test_it_answers_errors_as_openai_does(fake: FakeOpenAIProcess, status: int, code: str) -> None:
    response = ask(fake, f"[[status={status}]]")
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_fault_can_pass(fake: FakeOpenAIProcess) -> None:
    statuses = [ask(fake, "[[status=500 times=2]]").status_code for _ in range(3)]
    assert statuses == [500, 500, 200]


def test_it_cuts_the_connection(fake: FakeOpenAIProcess) -> None:
    received = ""
    body = {"messages": [{"role": "user", "content": "[[tokens=5 cut=2]]"}], "stream": True}
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{fake.base_url}/chat/completions", json=body) as response,
    ):
        for part in response.iter_text():
            received += part
    assert "tok1 " in received
    assert "tok2 " not in received


def test_it_sends_an_error_inside_the_stream(fake: FakeOpenAIProcess) -> None:
    chunks = stream(fake, "[[tokens=5 error_after=1]]")
    assert chunks[-1]["error"]["type"] == "server_error"
    assert joined(chunks[:-1], "content") == "tok0 "


def test_it_stops_when_the_client_goes_away(fake: FakeOpenAIProcess) -> None:
    body = {"messages": [{"role": "user", "content": "[[tokens=1000 delay_ms=20]]"}], "stream": True}
    headers = {"X-Mark": "mine"}
    with httpx.stream("POST", f"{fake.base_url}/chat/completions", json=body, headers=headers) as response:
        next(response.iter_text())
    seen = fake.wait_for_request(lambda request: request["client_disconnected"])
    assert not seen["is_finished"]
    assert seen["chunks_sent"] < 1000
    assert seen["body"] == body
    assert seen["headers"]["x-mark"] == "mine"


def test_it_hangs_until_the_client_gives_up(fake: FakeOpenAIProcess) -> None:
    with pytest.raises(httpx.ReadTimeout):
        body = {"messages": [{"role": "user", "content": "[[hang]]"}]}
        httpx.post(f"{fake.base_url}/chat/completions", json=body, timeout=0.3)
    assert fake.wait_for_request(lambda request: request["client_disconnected"])["chunks_sent"] == 0


def test_it_refuses_a_directive_it_does_not_know(fake: FakeOpenAIProcess) -> None:
    assert ask(fake, "[[tokens=5 colour=red]]").status_code == 400

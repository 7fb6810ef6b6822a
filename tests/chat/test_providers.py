"""Streams as the servers of this API really send them: the whole text, or a clear error.

Each is played by a server over HTTP, in pieces of any size.
"""

import asyncio
import uuid
from typing import Any

import orjson
import pytest
from django.utils import timezone

from chat.agents.base import ModelError, RunContext
from chat.agents.chat_completions import ChatCompletionsAgent
from chat.agents.endpoints import http
from chat.agents.events import MALFORMED, AgentEvent, ModelAnswer, Text, Thought
from sessions_app.agent_config import AgentConfig
from sessions_app.prompt import PromptMessage

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(delta: Any = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + orjson.dumps({"object": "chat.completion.chunk", "choices": choices, **more}) + b"\n\n"


def call(index: int | None, id: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    part: dict[str, Any] = {"function": {"name": name, "arguments": arguments}, "type": "function"}
    if index is not None:
        part["index"] = index
    if id is not None:
        part["id"] = id
    return {"tool_calls": [part]}


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
DETAILS = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
TEXT = "Grüße, 世界 🌍"
# name -> (what the server sends, text, thought, [(tool, args)], (input, output) or None)
SHAPES: dict[str, tuple[bytes, str, str, list[Any], tuple[int, int] | None]] = {
    "openai": (
        chunk({"role": "assistant", "content": "", "refusal": None}, usage=None)
        + chunk({"content": TEXT[:5]}, usage=None, obfuscation="x")
        + chunk({"content": TEXT[5:]}, usage=None)
        + chunk({}, "stop", usage=None)
        + chunk(usage={**USAGE, **DETAILS})
        + DONE,
        TEXT,
        "",
        [],
        (9, 3),
    ),
    "openai, two calls": (
        chunk(call(0, "call_a", "look", ""))
        + chunk(call(0, None, None, '{"x"'))
        + chunk(call(0, None, None, ": 1}"))
        + chunk(call(1, "call_b", "look", '{"x": "'))
        + chunk(call(1, None, None, 'ü"}'))
        + chunk({}, "tool_calls")
        + chunk(usage=USAGE)
        + DONE,
        "",
        "",
        [("look", {"x": 1}), ("look", {"x": "ü"})],
        (9, 3),
    ),
    "vllm, reasoning and usage in each chunk": (
        chunk({"role": "assistant", "content": ""}, usage={**USAGE, "completion_tokens": 0})
        + chunk({"reasoning_content": "Hm. "}, usage={**USAGE, "completion_tokens": 1})
        + chunk({"reasoning": "So."}, usage={**USAGE, "completion_tokens": 2})
        + chunk({"content": TEXT}, "stop", usage=USAGE, stop_reason=None)
        + chunk(usage=USAGE)
        + DONE,
        TEXT,
        "Hm. So.",
        [],
        (9, 3),
    ),
    "vllm, whole calls in one chunk": (
        chunk({"tool_calls": [call(n, f"tool-{n}", "look", f'{{"x": {n}}}')["tool_calls"][0] for n in (0, 1)]})
        + chunk({"content": ""}, "tool_calls")
        + DONE,
        "",
        "",
        [("look", {"x": 0}), ("look", {"x": 1})],
        None,
    ),
    "ollama, all calls with index 0": (
        chunk({"role": "assistant", "content": "", **call(0, "call_1", "look", '{"x":1}')})
        + chunk({"role": "assistant", "content": "", **call(0, "call_2", "look", '{"x":2}')})
        + chunk({"role": "assistant", "content": ""}, "tool_calls")
        + chunk(usage=USAGE, system_fingerprint="fp_ollama")
        + DONE,
        "",
        "",
        [("look", {"x": 1}), ("look", {"x": 2})],
        (9, 3),
    ),
    "no index, arguments as an object": (
        chunk(call(None, "call_1", "look", {"x": 1})) + chunk({}, "tool_calls") + DONE,
        "",
        "",
        [("look", {"x": 1})],
        None,
    ),
    "llama.cpp": (
        chunk({"role": "assistant", "content": None})
        + chunk({"content": TEXT})
        + chunk({}, "stop")
        + chunk(usage=USAGE, timings={"predicted_ms": 50.5})
        + DONE,
        TEXT,
        "",
        [],
        (9, 3),
    ),
    "litellm, usage with the end": (
        chunk({"content": TEXT, "role": "assistant"})
        + chunk({}, "stop", usage={**USAGE, "cache_read_input_tokens": 4})
        + DONE,
        TEXT,
        "",
        [],
        (9, 3),
    ),
    "content in parts": (
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]})
        + chunk({"content": [{"type": "text", "text": TEXT}]}, "stop")
        + DONE,
        TEXT,
        "Hm.",
        [],
        None,
    ),
    "comments, empty data, carriage returns, choices null": (
        b": keep-alive\r\n\r\nevent: message\r\ndata: \r\n\r\n"
        b'data: {"choices": null}\r\n\r\n'
        + chunk({"content": TEXT}, "stop").replace(b"\n", b"\r\n")
        + b"data: [DONE]\r\n\r\n",
        TEXT,
        "",
        [],
        None,
    ),
    "no [DONE]": (chunk({"content": TEXT}) + chunk({}, "stop"), TEXT, "", [], None),
    "no [DONE], and the last line has no end": (
        (chunk({"content": TEXT}) + chunk({}, "stop")).rstrip(),
        TEXT,
        "",
        [],
        None,
    ),
    "only [DONE] says that it ended": (chunk({"content": TEXT}) + DONE, TEXT, "", [], None),
    "malformed arguments": (
        chunk(call(0, "c", "look", '{"x": ')) + chunk({}, "tool_calls") + DONE,
        "",
        "",
        [("look", {MALFORMED: '{"x": '})],
        None,
    ),
}
# name -> (what the server sends, what the error says)
FAILURES = {
    "cut in the middle": (chunk({"content": TEXT}), "broke off"),
    "an error object within the stream": (
        chunk({"content": "So"}) + b'data: {"error": {"message": "secret", "code": 500}}\n\n' + DONE,
        "reported an error",
    ),
    "vllm's error object": (
        b'data: {"object": "error", "message": "secret", "code": 400}\n\n' + DONE,
        "reported an error",
    ),
    "an error in a choice": (
        b'data: {"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 502}}]}\n\n' + DONE,
        "reported an error",
    ),
    "no JSON": (b"data: {oops\n\n", "not JSON"),
    "no object": (b"data: [1, 2]\n\n", "no chunk"),
    "nothing at all": (b"", "broke off"),
}


async def played(body: bytes, settings: Any, size: int, **config: Any) -> list[AgentEvent]:
    """What the runtime makes of a server that sends this, `size` bytes at a time."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for start in range(0, len(body), size):
            writer.write(body[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings.MODEL_ENDPOINTS = {"default": {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": ""}}
    message = PromptMessage(0, 1, 0, "user", "Hi", (), "", 1, timezone.now())
    agent = AgentConfig("a", model="m", model_retries=0, **config)
    context = RunContext(uuid.uuid4(), uuid.uuid4(), agent, "Hi", [message])
    try:
        chat = ChatCompletionsAgent()
        return [event async for event in chat.answer(context, [{"role": "user", "content": "Hi"}])]
    finally:
        await http().close()
        server.close()


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_is_read_whole(name: str, size: int, settings: Any) -> None:
    body, text, thought, calls, usage = SHAPES[name]
    events = asyncio.run(played(body, settings, size))
    assert "".join(event.content for event in events if isinstance(event, Text)) == text
    assert "".join(event.content for event in events if isinstance(event, Thought)) == thought
    answer = events[-1]
    assert isinstance(answer, ModelAnswer)
    assert [(each.tool, each.args) for each in answer.tool_calls] == calls
    assert len({each.id for each in answer.tool_calls}) == len(calls)
    assert (answer.usage and (answer.usage.input_tokens, answer.usage.output_tokens)) == usage


def test_cached_and_reasoning_tokens_are_read(settings: Any) -> None:
    for name in ("openai", "litellm, usage with the end"):
        answer = asyncio.run(played(SHAPES[name][0], settings, 1_000_000))[-1]
        assert isinstance(answer, ModelAnswer)
        assert answer.usage
        assert answer.usage.cached_tokens == 4


@pytest.mark.parametrize("size", [1, 1_000_000])
@pytest.mark.parametrize("name", FAILURES)
def test_what_is_no_answer_is_a_clear_error(name: str, size: int, settings: Any) -> None:
    body, said = FAILURES[name]
    with pytest.raises(ModelError, match=said) as caught:
        asyncio.run(played(body, settings, size))
    assert "secret" not in caught.value.message


def test_the_end_says_why(settings: Any) -> None:
    for reason in ("length", "content_filter"):
        answer = asyncio.run(played(chunk({"content": "So"}, reason) + DONE, settings, 100))[-1]
        assert isinstance(answer, ModelAnswer)
        assert answer.finish_reason == reason
    answer = asyncio.run(played(chunk({"refusal": "No."}) + chunk({}, "stop") + DONE, settings, 100))[-1]
    assert isinstance(answer, ModelAnswer)
    assert answer.finish_reason == "refusal"

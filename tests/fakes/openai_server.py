"""A fake OpenAI-compatible model server: `python -m tests.fakes.openai_server --port N`.

It answers `GET /v1/models` and `POST /v1/chat/completions`, deterministically and at little cost per chunk.
What it does is scripted by a directive in the last user message (the base URL is `http://host:port/v1`):

    [[tokens=100 delay_ms=20]]     the words tok0 to tok99, one delta each, the first at once, 20 ms apart
    [[reasoning=5 ...]]            five reasoning_content deltas first
    [[tool=calculator args={"expression":"2+2"} tool=clock]]   calls both tools in one answer; once their
                                   results have come back, answers a text with them (then `tokens`, if given);
                                   args="text" sends that text as it is, JSON or not
    [[tool=clock rounds=3]]        calls the tool in three answers, one after the other, before the text
    [[length]] [[no_usage]]        finish_reason "length"; no usage even when asked for
    [[status=429]]                 an error with OpenAI's error object (any status)
    [[cut=7 ...]]                  closes the connection after 7 deltas
    [[error_after=7 ...]]          an error object inside the stream after 7 deltas, under status 200
    [[html]] [[hang]]              a web page under status 200; not one byte until the client goes away
    [[odd_usage]]                  a usage that is none: a negative count, and a word
    [[endless]]                    pays no heed to max_tokens
    [[status=500 times=2]]         the fault only for the first 2 requests with this same text

Without a directive it repeats what the user said; a model whose name begins with `summarizer` tells how many words it
was given. `POST /v1/embeddings` answers with vectors of words: 96 numbers, or 12 of a model whose name ends with
`-12d`; the model `embedder-strict` refuses texts of more than 400 words or with the word "unspeakable", and all that
are sent with one; `embedder-refusing` refuses any. `PUT /broken` names models that answer 500. `GET /embedded` tells
how many texts each embedding request had.
`GET /requests` tells the last requests (body, headers, deltas sent, whether it was finished or the client went away
before); `DELETE /requests` forgets them.
"""

import asyncio
import re
import zlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from tests.fakes.openai_answer import (
    CHUNK_END,
    CREATED,
    DONE,
    Answer,
    answer_to,
    chunk_start,
    completion,
    error_object,
    finish_chunk,
    usage_chunk,
)
from tests.fakes.openai_script import Script, last_user_text, split_directive, text_of
from tests.fakes.serving import serve_from_command_line

ASGIMessage = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]

REQUESTS_KEPT = 1_000
EMBEDDING_DIMENSIONS = 96
STRICT_WORDS = 400
ERROR_TYPES = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


@dataclass
class SeenRequest:
    """What `GET /requests` tells about one chat request."""

    number: int
    headers: dict[str, str]
    body: dict[str, Any]
    chunks_sent: int = 0
    is_finished: bool = False
    client_disconnected: bool = False


class PromptCache:
    """Remembers prompts up to each `cache_control` mark, as a provider does that wants such marks."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def read(self, messages: list[dict[str, Any]]) -> int:
        """How many words of the prompt were known; afterwards all up to its last mark are."""
        words, cached, prefix = 0, 0, ""
        marked = []
        for message in messages:
            content = message.get("content")
            prefix += f"{message['role']}:{text_of(message)}{orjson.dumps(message.get('tool_calls')).decode()}\n"
            words += len(text_of(message).split())
            if prefix in self._known:
                cached = words
            if isinstance(content, list) and any("cache_control" in part for part in content):
                marked.append(prefix)
        self._known.update(marked)
        return cached


class FakeOpenAI:
    """The ASGI application."""

    def __init__(self) -> None:
        self.requests: deque[SeenRequest] = deque(maxlen=REQUESTS_KEPT)
        self.request_count = 0
        self.faults_shown: Counter[str] = Counter()
        self.cache = PromptCache()
        self.broken_models: set[str] = set()
        self.embedded: deque[int] = deque(maxlen=REQUESTS_KEPT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["method"], scope["path"]:
            case "POST", "/v1/chat/completions":
                await self.chat(scope, receive, send)
            case "GET", "/v1/models":
                model = {"id": "fake-model", "object": "model", "created": CREATED, "owned_by": "tests"}
                await send_json(send, {"object": "list", "data": [model]})
            case "POST", "/v1/embeddings":
                await self.embed(receive, send)
            case "PUT", "/broken":
                self.broken_models = set(orjson.loads(await read_body(receive)))
                await send_json(send, {"broken": sorted(self.broken_models)})
            case "GET", "/embedded":
                await send_json(send, {"embedded": list(self.embedded)})
            case "GET", "/requests":
                await send_json(send, {"requests": [asdict(request) for request in self.requests]})
            case "DELETE", "/requests":
                self.requests.clear()
                self.faults_shown.clear()
                self.embedded.clear()
                await send_json(send, {"requests": []})
            case method, path:
                await send_error(send, 404, f"Unknown request: {method} {path}")

    async def embed(self, receive: Receive, send: Send) -> None:
        """Vectors in which texts with the same words are near each other."""
        body = orjson.loads(await read_body(receive))
        if body["model"] in self.broken_models:
            await send_error(send, 500, "This model is broken")
            return
        if body["model"] == "embedder-refusing" or (
            body["model"] == "embedder-strict" and any(map(is_refused, body["input"]))
        ):
            await send_error(send, 400, "This is not embedded")
            return
        self.embedded.append(len(body["input"]))
        size = 12 if body["model"].endswith("-12d") else EMBEDDING_DIMENSIONS
        rows = [{"index": index, "embedding": vector_of(text, size)} for index, text in enumerate(body["input"])]
        await send_json(send, {"object": "list", "data": rows, "model": body["model"]})

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = orjson.loads(await read_body(receive))
            text = last_user_text(body["messages"])
            script, text_said = split_directive(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            await send_error(send, 400, f"Bad request: {error!r}")
            return
        seen = self.record(scope, body)
        if script.has_fault and script.times is not None:
            self.faults_shown[text] += 1
            if self.faults_shown[text] > script.times:
                script = without_faults(script)
        if body.get("model") in self.broken_models:
            script = replace(script, status=500)
        if str(body.get("model")).startswith("summarizer"):
            text_said = f"a summary of {len(text.split())} words"
        answer = answer_to(body["messages"], script, text_said, None if script.endless else body.get("max_tokens"))
        if script.odd_usage:
            answer.usage.update(prompt_tokens=-7, completion_tokens="many")
        if script.prefill_us:
            cached = self.cache.read(body["messages"])
            answer.usage["prompt_tokens_details"] = {"cached_tokens": cached}
            await asyncio.sleep((answer.usage["prompt_tokens"] - cached) * script.prefill_us / 1e6)
        reply = Reply(seen, script, answer, send)
        await run_until_disconnect(reply, receive)

    def record(self, scope: Scope, body: dict[str, Any]) -> SeenRequest:
        self.request_count += 1
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        seen = SeenRequest(self.request_count, headers, body)
        self.requests.append(seen)
        return seen


class Reply:
    """The sending of one answer, with the faults that its script asks for."""

    def __init__(self, seen: SeenRequest, script: Script, answer: Answer, send: Send) -> None:
        self.seen = seen
        self.script = script
        self.answer = answer
        self.send = send
        self.request_id = f"chatcmpl-{seen.number}"
        self.model = str(seen.body.get("model", "fake-model"))

    async def run(self) -> None:
        script = self.script
        if script.hang:
            await asyncio.Event().wait()  # until the disconnect ends this task
        elif script.html:
            await send_whole(self.send, 200, b"text/html", b"<html><body>Log in to this proxy</body></html>")
        elif script.status is not None:
            await send_error(self.send, script.status, f"The script asked for status {script.status}")
        elif self.seen.body.get("stream"):
            await self.stream()
        else:
            await self.send_completion()

    async def stream(self) -> None:
        await send_start(self.send, 200, b"text/event-stream")
        start = chunk_start(self.request_id, self.model)
        await self.send_part(start + b'{"role":"assistant","content":""}' + CHUNK_END)
        if not await self.stream_deltas(start):
            return
        end = finish_chunk(start, self.answer.finish_reason)
        if self.wants_usage():
            end += usage_chunk(self.request_id, self.model, self.answer.usage)
        await self.send_last(end + DONE)

    async def stream_deltas(self, start: bytes) -> bool:
        """Send each delta at its own time, so that lateness does not add up; False if a fault ended it."""
        script, seen = self.script, self.seen
        loop = asyncio.get_running_loop()
        due = loop.time()
        for delta in self.answer.deltas(self.request_id):
            if await self.fault_is_due():
                return False
            # Also when nothing is to wait for: others get their turn, and a disconnect is seen.
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self.send_part(start + delta + CHUNK_END)
            seen.chunks_sent += 1
            due += script.delay_ms / 1000
        return not await self.fault_is_due()

    async def fault_is_due(self) -> bool:
        """Do what the script asks for at this delta, and say whether that ended the stream."""
        if self.seen.chunks_sent == self.script.cut:
            return True  # returning with the body unfinished makes uvicorn close the connection
        if self.seen.chunks_sent == self.script.error_after:
            error = error_object("The script asked for an error", "server_error", "server_error")
            await self.send_last(b"data: " + orjson.dumps(error) + b"\n\n" + DONE)
            return True
        return False

    async def send_completion(self) -> None:
        delta_count = sum(1 for _ in self.answer.deltas(self.request_id))
        await asyncio.sleep(delta_count * self.script.delay_ms / 1000)
        if self.script.error_after is not None:
            await send_error(self.send, 500, "The script asked for an error")
            return
        with_usage = not self.script.no_usage
        content = orjson.dumps(completion(self.request_id, self.model, self.answer, with_usage=with_usage))
        if self.script.cut is not None:
            await send_start(self.send, 200, b"application/json")
            await self.send_part(content[: len(content) // 2])
            return
        await send_whole(self.send, 200, b"application/json", content)

    def wants_usage(self) -> bool:
        options = self.seen.body.get("stream_options") or {}
        return bool(options.get("include_usage")) and not self.script.no_usage

    async def send_part(self, content: bytes) -> None:
        await self.send({"type": "http.response.body", "body": content, "more_body": True})

    async def send_last(self, content: bytes) -> None:
        await self.send({"type": "http.response.body", "body": content})


def is_refused(text: str) -> bool:
    return len(text.split()) > STRICT_WORDS or "unspeakable" in text


def vector_of(text: str, size: int) -> list[float]:
    vector = [0.01] * size
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % size] += 1.0
    return vector


def without_faults(script: Script) -> Script:
    return replace(script, status=None, cut=None, error_after=None, html=False, hang=False)


async def run_until_disconnect(reply: Reply, receive: Receive) -> None:
    """Send the reply; stop at once, and record it, when the client goes away before the end."""
    sending = asyncio.create_task(reply.run())
    watching = asyncio.create_task(wait_for_disconnect(receive))
    try:
        await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            reply.seen.is_finished = True
            sending.result()  # a mistake in this server shall not pass for an answer
        else:
            reply.seen.client_disconnected = True
    finally:
        for task in (sending, watching):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def send_start(send: Send, status: int, content_type: bytes, *headers: tuple[bytes, bytes]) -> None:
    all_headers = [(b"content-type", content_type), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})


async def send_whole(send: Send, status: int, content_type: bytes, content: bytes) -> None:
    await send_start(send, status, content_type, (b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.body", "body": content})


async def send_json(send: Send, value: object, status: int = 200) -> None:
    await send_whole(send, status, b"application/json", orjson.dumps(value))


async def send_error(send: Send, status: int, message: str) -> None:
    error_type, code = ERROR_TYPES.get(status, ("server_error", "server_error"))
    await send_json(send, error_object(message, error_type, code), status)


if __name__ == "__main__":
    serve_from_command_line(FakeOpenAI())

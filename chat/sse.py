"""The streaming gateway: native ASGI, so that an open stream holds no thread and passes no middleware.

One thread hop does all that is sync (the `accept` of a REST view: authenticate, throttle, decode, write), then
the events flow on the event loop alone.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from io import BytesIO
from typing import Any

import orjson
from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from redis.exceptions import RedisError
from rest_framework.response import Response
from rest_framework.views import APIView

from chat.answers import wait_for_answer
from chat.api import CANCEL_WAIT_SECONDS, AgentChatView, CancelView, ChatView, EventsView, RetryView, cancel_answer
from chat.leaving import ClientLeft
from chat.runs.cancel import wait_until_cancelled
from chat.stream.event import StreamEvent, as_sse
from chat.stream.tail import RunFilter, tail
from chat.watching import ResumedRun, Watching
from sessions_app.authentication import attach_login
from sessions_app.errors import AgentsiteError, RequestTooLargeError, UnavailableError
from sessions_app.services.accepting import AcceptedTurn
from sessions_app.threads import in_database_thread

logger = logging.getLogger(__name__)

RETRY_MS = 2_000
_KEEP_ALIVE = b": keep-alive\n\n"
_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]

Batches = AsyncGenerator[list[StreamEvent], None]


class Exchange:
    """One HTTP request and its answer."""

    def __init__(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self.scope = scope
        self.headers: dict[str, str] = {}  # of every answer
        self._receive = receive
        self._send = send

    async def read_body(self) -> bytes:
        """The body; raises RequestTooLargeError before it has read more than is allowed, and ClientLeft."""
        parts: list[bytes] = []
        size = 0
        while True:
            message: Any = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > settings.MAX_REQUEST_BYTES:
                raise RequestTooLargeError(f"A request has at most {settings.MAX_REQUEST_BYTES} bytes.")
            if not message.get("more_body"):
                return b"".join(parts)

    async def answer_json(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        shown = [header for header in _encoded(headers or {}) if header[0] != b"content-type"]
        shown.append((b"content-type", b"application/json"))
        content = b"" if body is None else orjson.dumps(body, default=str)
        await self._start(status, [*shown, (b"content-length", str(len(content)).encode())])
        await self._write(content, is_last=True)

    async def answer_stream(self, batches: Batches) -> None:
        """Write batches as they come until they end or the client is gone."""
        await self._start(200, _SSE_HEADERS)
        writing = asyncio.create_task(self._write_batches(batches), name="sse-writer")
        leaving = asyncio.create_task(self._until_disconnect(), name="sse-disconnect")
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, leaving):
                task.cancel()
            ended = await asyncio.gather(writing, leaving, return_exceptions=True)
        if isinstance(ended[0], Exception) and not isinstance(ended[0], OSError):
            raise ended[0]

    async def _write_batches(self, batches: Batches) -> None:
        await self._write(b"retry: %d\n\n" % RETRY_MS)
        async with aclosing(batches):
            async for batch in batches:
                await self._write(b"".join(map(as_sse, batch)) or _KEEP_ALIVE)
        await self._write(b"", is_last=True)

    async def _until_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        known = {name for name, _ in headers}
        headers = [*headers, *(header for header in _encoded(self.headers) if header[0] not in known)]
        await self._send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})

    async def _write(self, content: bytes, *, is_last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": not is_last})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def run_events(turn: AcceptedTurn) -> Batches:
    """The events of a turn that has just begun, to its end."""
    mine = RunFilter(str(turn.run_id))
    async for batch in _filtered(tail(turn.session_id, turn.after, is_newest=turn.is_next), mine):
        yield batch


async def rest_of_run(resumed: ResumedRun) -> Batches:
    """The events of a run behind a cursor, to its end."""
    mine = RunFilter(resumed.run_id, epoch=resumed.after.epoch)
    async for batch in _filtered(tail(resumed.session_id, resumed.after), mine):
        yield batch


async def _filtered(batches: Batches, mine: RunFilter) -> Batches:
    async with aclosing(batches):
        async for batch in batches:
            picked = mine.pick(batch)
            if picked or not batch:  # an empty batch is the tick of an idle stream
                yield picked
            if mine.is_over:
                return


class Refused(Exception):
    """The sync part answered with an error already."""

    def __init__(self, response: Response) -> None:
        self.response = response


def accept(view_class: type[APIView], method: str, exchange: Exchange, body: bytes, key: str) -> Any:
    """Call a method of the view as DRF would call a handler; `key` is the id of the session or run in the path.

    Raises Refused with DRF's answer to an error. What the view wants in the headers stands in the exchange's then.
    """
    request = ASGIRequest(exchange.scope, BytesIO(body))
    request.META["CONTENT_LENGTH"] = str(len(body))  # a chunked request has none, and DRF would not look
    attach_login(request)
    view = view_class()
    view.setup(request, key=key)
    view.request = view.initialize_request(request, key=key)
    view.headers = view.default_response_headers
    try:
        request.get_host()  # ALLOWED_HOSTS, as the middleware would see to it
        view.initial(view.request, key=key)
        return getattr(view, method)(view.request, key)
    except Exception as error:
        raise Refused(view.handle_exception(error)) from error
    finally:
        exchange.headers = {name: view.headers[name] for name in view.headers if name.startswith("RateLimit-")}


_accept = in_database_thread(accept)


async def _answered(exchange: Exchange, handler: Callable[[], Awaitable[None]]) -> None:
    """Whatever goes wrong before the first byte becomes a JSON error."""
    try:
        await handler()
    except Refused as refused:
        response = refused.response
        await exchange.answer_json(response.data, response.status_code, dict(response.headers))
    except AgentsiteError as error:
        await exchange.answer_json(error.as_json(), error.status)
    except ClientLeft:
        pass
    except (RedisError, OSError) as error:
        logger.warning("Redis does not answer: %s", error)
        unavailable = UnavailableError()
        await exchange.answer_json(unavailable.as_json(), unavailable.status, {"Retry-After": "2"})


async def chat(exchange: Exchange, session_id: str) -> None:
    """POST /sessions/{id}/chat and POST /agent/{id}/chat."""

    await _answer_turn(exchange, ChatView, session_id)


async def retry(exchange: Exchange, run_id: str) -> None:
    """POST /runs/{id}/retry."""
    await _answer_turn(exchange, RetryView, run_id)


async def _answer_turn(exchange: Exchange, view_class: type[APIView], key: str) -> None:
    async def handle() -> None:
        body = await exchange.read_body()
        turn, stream = await _accept(view_class, "accept", exchange, body, key)
        if stream:
            await exchange.answer_stream(run_events(turn))
        else:
            answer = await wait_for_answer(turn)
            await exchange.answer_json(answer.as_json(), answer.status, answer.headers)

    await _answered(exchange, handle)


async def chat_by_get(exchange: Exchange, session_id: str) -> None:
    """GET /agent/{id}/chat?message=, also the EventSource that comes back with Last-Event-ID."""

    async def handle() -> None:
        if b"last-event-id" not in dict(exchange.scope["headers"]):
            turn, _ = await _accept(AgentChatView, "accept_get", exchange, b"", session_id)
            await exchange.answer_stream(run_events(turn))
            return
        resumed = await _accept(AgentChatView, "accept_resume", exchange, b"", session_id)
        if resumed is None:
            await exchange.answer_json(None, 204)
        else:
            await exchange.answer_stream(rest_of_run(resumed))

    await _answered(exchange, handle)


async def events(exchange: Exchange, session_id: str) -> None:
    """GET /sessions/{id}/events."""

    async def handle() -> None:
        watching: Watching = await _accept(EventsView, "accept", exchange, b"", session_id)
        await exchange.answer_stream(tail(watching.session_id, watching.after))

    await _answered(exchange, handle)


async def cancel(exchange: Exchange, session_id: str) -> None:
    """POST /sessions/{id}/cancel."""

    async def handle() -> None:
        body = await exchange.read_body()
        cancellation = await _accept(CancelView, "accept", exchange, body, session_id)
        is_over = await wait_until_cancelled(cancellation, timeout_seconds=CANCEL_WAIT_SECONDS)
        await exchange.answer_json(*cancel_answer(is_over))

    await _answered(exchange, handle)

"""The WebSocket way in: one connection watches one session, and sends chat, cancel, settle, typing and ping."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

import orjson
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from redis.exceptions import RedisError

from chat.latency import Technique, is_used
from chat.leaving import ClientLeft, telling_who_left
from chat.runs.cancel import cancel
from chat.runs.hints import WORKERS
from chat.runs.start import TurnOptions, start_turn
from chat.stream.event import StreamEvent, as_frame, make_event
from chat.stream.tail import tail
from chat.watching import Watching, watch_session
from monitoring.rates import admit_request
from sessions_app.access import get_run
from sessions_app.api.approvals import SettleRequestSerializer
from sessions_app.authentication import attach_login, user_of_ticket
from sessions_app.errors import (
    AgentsiteError,
    CrossOriginError,
    InvalidRequestError,
    MessageTooLargeError,
    NotAuthenticatedError,
    NotFoundError,
    RunNotFoundError,
    UnavailableError,
)
from sessions_app.services.accepting import AcceptedTurn
from sessions_app.services.deciding import settle_call
from sessions_app.services.tokens import Bearer, find_bearer
from sessions_app.threads import in_database_thread

logger = logging.getLogger(__name__)

CLOSE_CODES = {401: 4401, 403: 4403, 404: 4404, 410: 4410, 400: 4400, 503: 4503}
MAX_FRAME_BYTES = settings.MAX_REQUEST_BYTES
TYPING_SECONDS = 5.0  # between two preparations, at least
DRAFT_SECONDS = 1.0  # the same, when the client sends what it would send
MAX_DRAFT = 4_000  # characters: a longer message is not embedded ahead


class _Consumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """What all have in common: frames that are events, and clients that may leave at any moment."""

    # Events come by the session's stream. With a layer each open socket would also wait on a channel of its own.
    channel_layer_alias = "none"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await super().__call__(scope, receive, telling_who_left(send))

    async def dispatch(self, message: Any) -> None:
        with suppress(ClientLeft):  # the server says so too, by a disconnect
            await super().dispatch(message)

    async def _send(self, event: StreamEvent) -> None:
        # Straight to the server: the consumer's own send() copies the frame through two more calls.
        await self.base_send({"type": "websocket.send", "text": as_frame(event)})

    async def _complain(self, error: AgentsiteError) -> None:
        data: dict[str, Any] = {"code": error.code, "message": error.message}
        if error.retry_after_seconds is not None:
            data["retry_after"] = error.retry_after_seconds
        await self._send(make_event(None, "error", data))

    async def _refuse(self, error: AgentsiteError) -> None:
        await self._complain(error)
        await self.close(CLOSE_CODES.get(error.status, 4400))


class UnknownPathConsumer(_Consumer):
    """Any path that is none of ours."""

    async def connect(self) -> None:
        await self.accept()
        await self._refuse(NotFoundError())


class SessionConsumer(_Consumer):
    """`/ws/{session_id}?after=`: frames in and out are JSON objects with a `type`."""

    async def connect(self) -> None:
        self._tail: asyncio.Task[None] | None = None
        self._typed_at = float("-inf")
        await self.accept()
        try:
            self._user, self._bearer, watching = await enter(self.scope)
        except AgentsiteError as error:
            await self._refuse(error)
            return
        self._session_id = watching.session_id
        self._tail = asyncio.create_task(self._send_events(watching), name=f"tail-{watching.session_id}")

    async def disconnect(self, code: int) -> None:
        if self._tail:
            self._tail.cancel()
            await asyncio.gather(self._tail, return_exceptions=True)
        raise StopConsumer

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self._tail is None:
            return  # refused, the close is on its way
        try:
            frame = _read_frame(text_data, bytes_data)
            await _COMMANDS[frame["type"]](self, frame)
        except AgentsiteError as error:
            await self._complain(error)
        except (RedisError, OSError) as error:
            logger.warning("Redis does not answer: %s", error)
            await self._complain(UnavailableError())

    async def _chat(self, frame: dict[str, Any]) -> None:
        options = TurnOptions(frame.get("on_busy", ""), frame.get("idempotency_key"))
        turn = await _start_turn(self._user, self._bearer, self._session_id, frame.get("message"), options)
        accepted = {
            "run_id": str(turn.run_id),
            "message_id": turn.message_id,
            "client_ref": frame.get("client_ref"),
        }
        await self._send(make_event(None, "accepted", accepted))

    async def _cancel(self, frame: dict[str, Any]) -> None:
        await _cancel(user=self._user, session_id=self._session_id)
        await self._send(make_event(None, "status", {"status": "cancelling"}))

    async def _settle(self, frame: dict[str, Any]) -> None:
        goes_on = await _settle(self._user, self._session_id, frame)
        settled = {"run_id": frame["run_id"], "tool_call_id": frame["tool_call_id"], "goes_on": goes_on}
        await self._send(make_event(None, "settled", settled))

    async def _typing(self, frame: dict[str, Any]) -> None:
        """The user writes a message: let the workers prepare. `message` is what stands there so far."""
        draft = frame.get("message", "")
        if not isinstance(draft, str):
            raise InvalidRequestError("`message` is a text.")
        now = time.monotonic()
        pause = DRAFT_SECONDS if draft else TYPING_SECONDS
        if is_used(Technique.SPECULATION) and now - self._typed_at > pause:
            self._typed_at = now
            hint = {"type": "prepare", "session_id": str(self._session_id), "draft": draft[:MAX_DRAFT]}
            await get_channel_layer().group_send(WORKERS, hint)

    async def _ping(self, frame: dict[str, Any]) -> None:
        await self._send(make_event(None, "pong", {}))

    async def _send_events(self, watching: Watching) -> None:
        try:
            async with aclosing(tail(watching.session_id, watching.after)) as batches:
                async for batch in batches:
                    for event in batch:
                        await self._send(event)
        except ClientLeft:
            pass
        except (RedisError, OSError) as error:
            logger.warning("Redis does not answer: %s", error)
            await self._refuse(UnavailableError())


_COMMANDS: dict[str, Callable[[SessionConsumer, dict[str, Any]], Awaitable[None]]] = {
    "chat": SessionConsumer._chat,
    "cancel": SessionConsumer._cancel,
    "settle": SessionConsumer._settle,
    "typing": SessionConsumer._typing,
    "ping": SessionConsumer._ping,
}


def _read_frame(text: str | None, binary: bytes | None) -> dict[str, Any]:
    """The frame's JSON object, with a known type; raises InvalidRequestError, MessageTooLargeError."""
    if text is None:
        raise InvalidRequestError("Send text frames: this one is binary.")
    if len(text) > MAX_FRAME_BYTES:
        raise MessageTooLargeError(f"A frame has at most {MAX_FRAME_BYTES} bytes.")
    try:
        frame = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidRequestError("The frame is not valid JSON.") from None
    if not isinstance(frame, dict) or frame.get("type") not in tuple(_COMMANDS):
        raise InvalidRequestError(f"A frame is an object whose `type` is one of: {', '.join(_COMMANDS)}.")
    return frame


def authenticate(scope: Any) -> tuple[Any, Bearer | None]:
    """The user who opens this WebSocket: by bearer token, ticket, or login cookie from the site's own pages.

    Raises NotAuthenticatedError, CrossOriginError.
    """
    headers = dict(scope["headers"])
    kind, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    user: Any
    bearer = None
    if kind.lower() == "bearer":
        bearer = find_bearer(token.strip())
        user = bearer and bearer.owner
    elif ticket := parse_qs(scope["query_string"].decode("latin-1")).get("token"):
        user = user_of_ticket(ticket[0])
    else:
        user = _user_of_cookie(scope, headers.get(b"origin", b"").decode("latin-1"))
    if user is None or not user.is_authenticated:
        raise NotAuthenticatedError()
    return user, bearer


def _user_of_cookie(scope: Any, origin: str) -> Any:
    request = ASGIRequest({**scope, "method": "GET"}, BytesIO())
    attach_login(request)
    if not request.user.is_authenticated:
        return None
    try:
        scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "ws"), "http")
        own = {f"{scheme}://{request.get_host()}", *settings.CSRF_TRUSTED_ORIGINS}
    except DisallowedHost:
        own = set()
    if origin not in own:
        raise CrossOriginError()
    return request.user


@in_database_thread
def enter(scope: Any) -> tuple[Any, Bearer | None, Watching]:
    """The caller and where it begins to watch."""
    user, bearer = authenticate(scope)
    after = parse_qs(scope["query_string"].decode("latin-1")).get("after", [""])[0]
    session_id = scope["url_route"]["kwargs"]["session_id"]
    return user, bearer, watch_session(user=user, session_id=session_id, after=after)


@in_database_thread
def _start_turn(user: Any, bearer: Bearer | None, session_id: Any, message: Any, options: TurnOptions) -> AcceptedTurn:
    admit_request(user, bearer)
    return start_turn(user=user, session_id=session_id, message=message, options=options)


@in_database_thread
def _cancel(*, user: Any, session_id: Any) -> None:
    cancel(user=user, session_id=session_id)


@in_database_thread
def _settle(user: Any, session_id: Any, frame: dict[str, Any]) -> bool:
    """Decide about a tool call, by the same fields as the REST call; whether the run goes on now."""
    command = SettleRequestSerializer(data={name: frame[name] for name in frame if name != "type"})
    if not command.is_valid():
        field, mistakes = next(iter(command.errors.items()))
        raise InvalidRequestError(f"`{field}`: {mistakes[0]}")
    run = get_run(user, frame.get("run_id"))
    if run.session_id != session_id:
        raise RunNotFoundError()
    return settle_call(run=run, call_id=str(frame.get("tool_call_id")), verdict=command.verdict(), user=user)

"""The REST views of turns: chat, events, cancel, agents.

`accept` of each is the sync part: authenticate, throttle, decode, call. The streaming gateway (chat/sse.py) calls it
and then streams; the sync handlers here serve the browsable API, whose forms want one JSON answer.
"""

from typing import Any

from asgiref.sync import async_to_sync
from django.db import connection
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from chat.answers import wait_for_answer
from chat.context.inspecting import inspect_context
from chat.runs.cancel import Cancellation, cancel, wait_until_cancelled
from chat.runs.start import TurnOptions, retry, start_turn
from chat.serializers import (
    AgentTypeSerializer,
    AnswerSerializer,
    CancelRequestSerializer,
    CancelSerializer,
    ChatRequestSerializer,
    ContextSerializer,
    RetryRequestSerializer,
)
from chat.watching import ResumedRun, Watching, resume_run, watch_session
from sessions_app import queries
from sessions_app.access import get_session
from sessions_app.api.serializers import ErrorSerializer
from sessions_app.errors import CrossOriginError, InvalidRequestError
from sessions_app.models import OnBusy
from sessions_app.services.accepting import AcceptedTurn

CANCEL_WAIT_SECONDS = 2.0

SSE = OpenApiResponse(
    OpenApiTypes.STR,
    description="Server-sent events, flat JSON each with its cursor as `id:`; ends with done, error or cancelled.",
    examples=[
        OpenApiExample(
            "A run",
            value='id: 1-2\\ndata: {"type":"response","content":"Hello"}\\n\\n',
            media_type="text/event-stream",
        )
    ],
)
ERRORS = dict.fromkeys((400, 401, 403, 404, 409, 410, 413, 415, 422, 429, 503), ErrorSerializer)
# With `stream=false`: the answer; a run that waits for a person or a budget; one that has failed.
ANSWERS: dict[Any, Any] = {
    (200, "text/event-stream"): SSE,
    **{(status, "application/json"): AnswerSerializer for status in (200, 202, 502)},
    **ERRORS,
}
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A second request of this session with the same key gets the first one's run, never another.",
)


# One for all requests: a new one copies its fields, which costs a turn more than its transaction does.
_CHAT_REQUEST = ChatRequestSerializer()


class StreamView(APIView):
    """A view whose answer is a stream: it is for every client, whatever it says to accept."""

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        return super().perform_content_negotiation(request, force=True)


class ChatView(StreamView):
    """Send a message and watch the agent answer.

    With `stream` (the default for programs) the answer is a stream of server-sent events; with `stream=false`, and
    always in this browsable page, one JSON object when the run is over.
    """

    serializer_class = ChatRequestSerializer

    def accept(self, request: Request, session_id: str) -> tuple[AcceptedTurn, bool]:
        """Start the turn; the second value says whether the caller wants a stream."""
        command = _CHAT_REQUEST.run_validation(request.data)
        options = TurnOptions(command.get("on_busy", ""), request.headers.get("Idempotency-Key"))
        turn = start_turn(user=request.user, session_id=session_id, message=command["message"], options=options)
        return turn, command["stream"]

    @extend_schema(
        operation_id="chat",
        tags=["chat"],
        summary="Send a message, stream the answer",
        parameters=[IDEMPOTENCY_KEY],
        request=ChatRequestSerializer,
        responses=ANSWERS,
    )
    def post(self, request: Request, session_id: str) -> Response:
        turn, _ = self.accept(request, session_id)
        return _answer(turn)


class AgentChatView(ChatView):
    """The same stream for the browser's EventSource, which can only GET.

    It acts, so with a login cookie it is answered only to the site's own pages. After a lost connection the
    browser sends `Last-Event-ID`, and the run's stream goes on from there; when it is over the answer is 204, which
    ends the browser's retries.
    """

    http_method_names = ["get", "post", "head", "options"]

    def accept_get(self, request: Request, session_id: str) -> tuple[AcceptedTurn, bool]:
        """As `accept`, with the message in the query."""
        if request.auth is None and not _is_same_origin(request):
            raise CrossOriginError()
        message = request.query_params.get("message")
        options = TurnOptions(request.query_params.get("on_busy", ""))
        return start_turn(user=request.user, session_id=session_id, message=message, options=options), True

    def accept_resume(self, request: Request, session_id: str) -> ResumedRun | None:
        """The run that the browser's last event was of; None if it has seen the end."""
        last = request.headers["Last-Event-ID"]
        return resume_run(user=request.user, session_id=session_id, last_event_id=last)

    @extend_schema(
        operation_id="agent_chat_get",
        tags=["chat"],
        summary="Send a message by GET, for EventSource",
        parameters=[
            OpenApiParameter("message", str, required=True),
            OpenApiParameter("on_busy", str, enum=OnBusy.values),
            OpenApiParameter("Last-Event-ID", str, OpenApiParameter.HEADER, description="Go on behind this event."),
        ],
        responses={
            (200, "text/event-stream"): SSE,
            204: OpenApiResponse(description="The run is over."),
            **ERRORS,
        },
    )
    def get(self, request: Request, session_id: str) -> Response:
        turn, _ = self.accept_get(request, session_id)
        return _answer(turn)

    @extend_schema(
        operation_id="agent_chat_post",
        tags=["chat"],
        summary="Send a message, stream the answer",
        parameters=[IDEMPOTENCY_KEY],
        request=ChatRequestSerializer,
        responses=ANSWERS,
    )
    def post(self, request: Request, session_id: str) -> Response:
        return super().post(request, session_id)


class RetryView(StreamView):
    """Run a failed or cancelled turn again, from the last step that was finished; answers as the chat does."""

    serializer_class = RetryRequestSerializer

    def accept(self, request: Request, run_id: str) -> tuple[AcceptedTurn, bool]:
        command = RetryRequestSerializer(data=request.data)
        command.is_valid(raise_exception=True)
        return retry(user=request.user, run_id=run_id), command.validated_data["stream"]

    @extend_schema(
        operation_id="runs_retry",
        tags=["runs"],
        summary="Run a failed or cancelled turn again",
        request=RetryRequestSerializer,
        responses=ANSWERS,
    )
    def post(self, request: Request, run_id: str) -> Response:
        turn, _ = self.accept(request, run_id)
        return _answer(turn)


def _answer(turn: AcceptedTurn) -> Response:
    """Wait for it, without a connection to the database."""
    connection.close()
    answer = async_to_sync(wait_for_answer)(turn)
    return Response(answer.as_json(), status=answer.status, headers=answer.headers)


def _is_same_origin(request: Request) -> bool:
    """Browsers say where a request comes from; one that says nothing is no page's."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin") or request.headers.get("Referer", "")
    own = f"{request.scheme}://{request.get_host()}"
    return origin == own or origin.startswith(f"{own}/")


class EventsView(StreamView):
    """Watch a session: every event behind a cursor, then live, without end.

    Without a cursor it begins with the run in progress, if there is one. `after=0-0` is everything. In this
    browsable page it is a page of what is on record.
    """

    def accept(self, request: Request, session_id: str) -> Watching:
        """Where to begin; raises InvalidCursorError, SessionNotFoundError."""
        after = request.headers.get("Last-Event-ID") or request.query_params.get("after") or ""
        return watch_session(user=request.user, session_id=session_id, after=after)

    @extend_schema(
        operation_id="events",
        tags=["chat"],
        summary="Watch a session's events",
        parameters=[
            OpenApiParameter("after", str, description="A cursor, `<epoch>-<n>`."),
            OpenApiParameter(
                "Last-Event-ID", str, OpenApiParameter.HEADER, description="The same, as browsers send it."
            ),
        ],
        responses={(200, "text/event-stream"): SSE, **ERRORS},
    )
    def get(self, request: Request, session_id: str) -> Response:
        watching = self.accept(request, session_id)
        facts = queries.facts_after(watching.session_id, watching.after, limit=100)
        return Response(
            {"events": [{"id": f"{fact.epoch}-{fact.seq}", "type": fact.type, **fact.data} for fact in facts]}
        )


class CancelView(StreamView):
    """Stop what runs in a session: `cancelled` once that is true, 202 `cancelling` until then."""

    serializer_class = CancelRequestSerializer

    def accept(self, request: Request, session_id: str) -> Cancellation:
        command = CancelRequestSerializer(data=request.data)
        command.is_valid(raise_exception=True)
        return cancel(user=request.user, session_id=session_id, run_id=command.validated_data.get("run_id"))

    @extend_schema(
        operation_id="cancel",
        tags=["chat"],
        summary="Stop what runs",
        request=CancelRequestSerializer,
        responses={
            200: CancelSerializer,
            202: CancelSerializer,
            **dict.fromkeys((400, 401, 403, 404, 409), ErrorSerializer),
        },
    )
    def post(self, request: Request, session_id: str) -> Response:
        cancellation = self.accept(request, session_id)
        is_over = async_to_sync(wait_until_cancelled)(cancellation, timeout_seconds=CANCEL_WAIT_SECONDS)
        return Response(*cancel_answer(is_over))


def cancel_answer(is_over: bool) -> tuple[dict[str, str], int]:
    return ({"status": "cancelled"}, 200) if is_over else ({"status": "cancelling"}, 202)


class ContextView(APIView):
    """What the model would be sent for a message: its parts, their tokens, why each is in, and what is left out."""

    @extend_schema(
        operation_id="context",
        tags=["context"],
        summary="Look at the context of the next message",
        parameters=[OpenApiParameter("message", str, description="What would be sent; empty: the context alone.")],
        responses={200: ContextSerializer, **ERRORS},
    )
    def get(self, request: Request, session_id: str) -> Response:
        message = request.query_params.get("message", "")
        if "\x00" in message:
            raise InvalidRequestError("A message cannot contain NUL characters.")
        return Response(inspect_context(get_session(request.user, session_id), message))


class AgentsView(APIView):
    """The agent types that a session can be opened with."""

    @extend_schema(
        operation_id="agents",
        tags=["chat"],
        summary="List agent types",
        responses={200: AgentTypeSerializer(many=True), 401: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        return Response(AgentTypeSerializer(queries.enabled_agent_types(), many=True).data)

"""The REST views of sessions, histories, runs and tokens. They only translate: decode, call a verb, encode."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from sessions_app import queries
from sessions_app.access import get_run, get_session
from sessions_app.api import serializers
from sessions_app.api.pagination import Pages
from sessions_app.api.parsers import BoundedJSONParser
from sessions_app.authentication import create_ticket
from sessions_app.models import AgentSession, ApiToken, Run
from sessions_app.services import cancelling, forking, sessions, tokens

Errors = dict.fromkeys((400, 401, 429), serializers.ErrorSerializer)
NotFound = {404: serializers.ErrorSerializer, **Errors}


def _decoded(serializer_class: type[BaseSerializer[Any]], request: Request) -> dict[str, Any]:
    decoder = serializer_class(data=request.data)
    decoder.is_valid(raise_exception=True)
    return dict(decoder.validated_data)


@extend_schema_view(
    get=extend_schema(
        operation_id="sessions_list",
        tags=["sessions"],
        summary="List your sessions",
        parameters=[OpenApiParameter("q", str, description="Part of the title.")],
        responses={200: serializers.SessionSerializer(many=True), **Errors},
    )
)
class SessionsView(generics.ListAPIView[AgentSession]):
    """Your sessions, newest activity first. POST opens one."""

    serializer_class = serializers.SessionSerializer
    pagination_class = Pages

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return AgentSession.objects.none()
        return queries.sessions_of(self.request.user, search=self.request.query_params.get("q", ""))

    def get_serializer_class(self) -> Any:
        # The browsable API draws its form from this.
        posting = self.request is not None and self.request.method == "POST"
        return serializers.CreateSessionSerializer if posting else serializers.SessionSerializer

    @extend_schema(
        operation_id="sessions_create",
        tags=["sessions"],
        summary="Open a session",
        request=serializers.CreateSessionSerializer,
        responses={201: serializers.SessionSerializer, **Errors},
    )
    def post(self, request: Request) -> Response:
        values = _decoded(serializers.CreateSessionSerializer, request)
        session = sessions.create_session(owner=request.user, **values)
        return Response(serializers.SessionSerializer(session).data, status=201)


class SessionView(APIView):
    """One session. PATCH changes its title, state or time to live; DELETE stops what runs in it and removes it."""

    serializer_class = serializers.UpdateSessionSerializer

    @extend_schema(
        operation_id="sessions_get",
        tags=["sessions"],
        summary="Read a session",
        responses={200: serializers.SessionSerializer, **NotFound},
    )
    def get(self, request: Request, session_id: str) -> Response:
        return Response(serializers.SessionSerializer(get_session(request.user, session_id)).data)

    @extend_schema(
        operation_id="sessions_update",
        tags=["sessions"],
        summary="Change a session",
        request=serializers.UpdateSessionSerializer,
        responses={200: serializers.SessionSerializer, **NotFound},
    )
    def patch(self, request: Request, session_id: str) -> Response:
        session = get_session(request.user, session_id)
        values = _decoded(serializers.UpdateSessionSerializer, request)
        return Response(serializers.SessionSerializer(sessions.update_session(session=session, **values)).data)

    @extend_schema(
        operation_id="sessions_delete",
        tags=["sessions"],
        summary="Delete a session",
        responses={200: serializers.DeletedSerializer, **NotFound},
    )
    def delete(self, request: Request, session_id: str) -> Response:
        session = get_session(request.user, session_id)
        cancelling.request_cancel(session=session)
        sessions.delete_session(session=session)
        return Response({"status": "deleted"})


class ExtendView(APIView):
    """Move the end of a session away. An expired session lives again."""

    serializer_class = serializers.ExtendSerializer

    @extend_schema(
        operation_id="sessions_extend",
        tags=["sessions"],
        summary="Extend a session",
        request=serializers.ExtendSerializer,
        responses={200: serializers.SessionSerializer, **NotFound},
    )
    def post(self, request: Request, session_id: str) -> Response:
        session = get_session(request.user, session_id)
        values = _decoded(serializers.ExtendSerializer, request)
        return Response(serializers.SessionSerializer(sessions.extend_session(session=session, **values)).data)


class ForkView(APIView):
    """A new session that begins as this one stood after one of its messages, or as it stands."""

    serializer_class = serializers.ForkSerializer

    @extend_schema(
        operation_id="sessions_fork",
        tags=["sessions"],
        summary="Fork a session",
        request=serializers.ForkSerializer,
        responses={201: serializers.SessionSerializer, **NotFound},
    )
    def post(self, request: Request, session_id: str) -> Response:
        session = get_session(request.user, session_id)
        fork = forking.fork_session(session=session, **_decoded(serializers.ForkSerializer, request))
        return Response(serializers.SessionSerializer(fork).data, status=201)


_STATE = {"tags": ["state"], "request": dict, "responses": {200: dict, **NotFound}}


class StateView(APIView):
    """The session's state document: any JSON object.

    PUT replaces it, PATCH merges (RFC 7396: null removes a key), DELETE empties it.
    """

    parser_classes = [BoundedJSONParser]  # a form's fields would replace it by texts

    @extend_schema(
        operation_id="state_get", tags=["state"], summary="Read the state", responses={200: dict, **NotFound}
    )
    def get(self, request: Request, session_id: str) -> Response:
        return Response(get_session(request.user, session_id).state)

    @extend_schema(operation_id="state_put", summary="Replace the state", **_STATE)  # type: ignore[arg-type]
    def put(self, request: Request, session_id: str) -> Response:
        session = get_session(request.user, session_id)
        sessions.update_session(session=session, state=self._document(request))
        return Response(session.state)

    @extend_schema(operation_id="state_patch", summary="Merge into the state", **_STATE)  # type: ignore[arg-type]
    def patch(self, request: Request, session_id: str) -> Response:
        session = get_session(request.user, session_id)
        return Response(sessions.patch_state(session=session, changes=self._document(request)))

    @extend_schema(
        operation_id="state_delete",
        tags=["state"],
        summary="Empty the state",
        responses={200: dict, **NotFound},
    )
    def delete(self, request: Request, session_id: str) -> Response:
        session = get_session(request.user, session_id)
        sessions.update_session(session=session, state={})
        return Response({})

    def _document(self, request: Request) -> dict[str, Any]:
        document: dict[str, Any] = serializers.StateField().run_validation(request.data)
        return document


class HistoryView(APIView):
    """A session's messages, oldest first: the newest page, or with `before` the one before that message."""

    @extend_schema(
        operation_id="history",
        tags=["sessions"],
        summary="Read the history",
        parameters=[serializers.HistoryQuerySerializer],
        responses={200: serializers.HistorySerializer, **NotFound},
    )
    def get(self, request: Request, session_id: str) -> Response:
        session = get_session(request.user, session_id)
        query = serializers.HistoryQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        page = queries.history(session, **query.validated_data)
        return Response(serializers.HistorySerializer(page).data)


@extend_schema_view(
    get=extend_schema(
        operation_id="runs_list",
        tags=["runs"],
        summary="List a session's runs",
        responses={200: serializers.RunSerializer(many=True), **NotFound},
    )
)
class RunsView(generics.ListAPIView[Run]):
    """A session's runs, newest first."""

    serializer_class = serializers.RunSerializer
    pagination_class = Pages

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return Run.objects.none()
        return queries.runs_of(get_session(self.request.user, self.kwargs["session_id"]))


class RunView(APIView):
    """One run: its status, usage and timings."""

    @extend_schema(
        operation_id="runs_get",
        tags=["runs"],
        summary="Read a run",
        responses={200: serializers.RunSerializer, **NotFound},
    )
    def get(self, request: Request, run_id: str) -> Response:
        return Response(serializers.RunSerializer(get_run(request.user, run_id)).data)


class TicketsView(APIView):
    """A short-lived ticket that opens a WebSocket by `?token=`, for clients that cannot send headers."""

    @extend_schema(
        operation_id="tickets_create",
        tags=["tokens"],
        summary="Get a WebSocket ticket",
        request=None,
        responses={201: serializers.TicketSerializer, **Errors},
    )
    def post(self, request: Request) -> Response:
        ticket = create_ticket(request.user)
        return Response({"ticket": ticket, "expires_in": settings.WEBSOCKET_TICKET_SECONDS}, status=201)


@extend_schema_view(
    get=extend_schema(
        operation_id="tokens_list",
        tags=["tokens"],
        summary="List your API tokens",
        responses={200: serializers.TokenSerializer(many=True), **Errors},
    )
)
class TokensView(generics.ListAPIView[ApiToken]):
    """Your API tokens. POST makes one, and shows it this once."""

    serializer_class = serializers.TokenSerializer
    pagination_class = Pages

    def get_queryset(self) -> Any:
        return ApiToken.objects.filter(owner_id=self.request.user.pk)

    def get_serializer_class(self) -> Any:
        posting = self.request is not None and self.request.method == "POST"
        return serializers.CreateTokenSerializer if posting else serializers.TokenSerializer

    @extend_schema(
        operation_id="tokens_create",
        tags=["tokens"],
        summary="Make an API token",
        request=serializers.CreateTokenSerializer,
        responses={201: serializers.CreatedTokenSerializer, **Errors},
    )
    def post(self, request: Request) -> Response:
        values = _decoded(serializers.CreateTokenSerializer, request)
        token, plaintext = tokens.create_token(owner=request.user, **values)
        return Response({**serializers.TokenSerializer(token).data, "token": plaintext}, status=201)


class TokenView(APIView):
    """One of your API tokens; DELETE revokes it at once."""

    @extend_schema(
        operation_id="tokens_revoke",
        tags=["tokens"],
        summary="Revoke an API token",
        responses={200: serializers.TokenSerializer, **NotFound},
    )
    def delete(self, request: Request, token_id: int) -> Response:
        token = generics.get_object_or_404(ApiToken, pk=token_id, owner_id=request.user.pk)
        tokens.revoke_token(token=token)
        token.refresh_from_db()
        return Response(serializers.TokenSerializer(token).data)

"""The REST views of what stands in the prompt instead of messages, or always: summaries and pins."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from sessions_app.access import get_session
from sessions_app.api.serializers import ErrorSerializer, MessageSerializer
from sessions_app.errors import MessageNotFoundError, SummaryNotFoundError
from sessions_app.models import Summary
from sessions_app.services.pinning import set_pinned
from sessions_app.services.summaries import restore_summary, revert_summary, summaries_of

_ERRORS = dict.fromkeys((400, 401, 404, 409, 429), ErrorSerializer)


class PinSerializer(serializers.Serializer[Any]):
    is_pinned = serializers.BooleanField(help_text="Whether it stands in every prompt, as it is.")


class SummarySerializer(serializers.ModelSerializer[Summary]):
    summary_id = serializers.IntegerField(source="id")
    level = serializers.CharField(source="get_level_display")
    is_reverted = serializers.SerializerMethodField()

    class Meta:
        model = Summary
        fields = [
            "summary_id",
            "level",
            "first_turn",
            "last_turn",
            "first_at",
            "last_at",
            "text",
            "message_count",
            "tokens_before",
            "tokens_after",
            "made_by",
            "is_reverted",
            "created_at",
            "told_at",
        ]

    def get_is_reverted(self, summary: Summary) -> bool:
        return summary.reverted_at is not None


class MessageView(APIView):
    """One message of a session: PATCH pins it, or lets it go."""

    serializer_class = PinSerializer

    @extend_schema(
        operation_id="messages_pin",
        tags=["context"],
        summary="Pin a message",
        request=PinSerializer,
        responses={200: MessageSerializer, **_ERRORS},
    )
    def patch(self, request: Request, session_id: str, message_id: str) -> Response:
        command = PinSerializer(data=request.data)
        command.is_valid(raise_exception=True)
        if not message_id.isdecimal() or len(message_id) > 18:
            get_session(request.user, session_id)
            raise MessageNotFoundError()
        message = set_pinned(
            user=request.user,
            session_id=session_id,
            message_id=int(message_id),
            is_pinned=command.validated_data["is_pinned"],
        )
        return Response(MessageSerializer(message).data)


class SummariesView(APIView):
    """What stands for a session's older turns in its prompts. The messages themselves are kept."""

    @extend_schema(
        operation_id="summaries_list",
        tags=["context"],
        summary="List a session's summaries",
        responses={200: SummarySerializer(many=True), **_ERRORS},
    )
    def get(self, request: Request, session_id: str) -> Response:
        session = get_session(request.user, session_id)
        return Response(SummarySerializer(summaries_of(session), many=True).data)


class SummaryRevertView(APIView):
    """Let neither this summary nor a coarser one of its turns stand any more; answers with those."""

    @extend_schema(
        operation_id="summaries_revert",
        tags=["context"],
        summary="Revert a summary",
        request=None,
        responses={200: SummarySerializer(many=True), **_ERRORS},
    )
    def post(self, request: Request, session_id: str, summary_id: str) -> Response:
        reverted = revert_summary(summary=_find(request, session_id, summary_id))
        return Response(SummarySerializer(reverted, many=True).data)


class SummaryRestoreView(APIView):
    """Let a reverted summary stand again."""

    @extend_schema(
        operation_id="summaries_restore",
        tags=["context"],
        summary="Restore a summary",
        request=None,
        responses={200: SummarySerializer, **_ERRORS},
    )
    def post(self, request: Request, session_id: str, summary_id: str) -> Response:
        summary = _find(request, session_id, summary_id)
        restore_summary(summary=summary)
        summary.refresh_from_db()
        return Response(SummarySerializer(summary).data)


def _find(request: Request, session_id: str, summary_id: str) -> Summary:
    session = get_session(request.user, session_id)
    known = summary_id.isdecimal() and len(summary_id) < 19
    found = Summary.objects.filter(session=session, replaced_at=None, pk=int(summary_id)).first() if known else None
    if found is None:
        raise SummaryNotFoundError()
    return found

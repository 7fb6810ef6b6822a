"""The REST views by which a person settles tool calls whose outcome nobody knows."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from sessions_app.access import get_run, get_session
from sessions_app.api.serializers import ErrorSerializer
from sessions_app.models import Decision, ToolCall
from sessions_app.services.effects import calls_to_settle, settle_call

_ERRORS = dict.fromkeys((400, 401, 404, 409), ErrorSerializer)


class ApprovalSerializer(serializers.ModelSerializer[ToolCall]):
    run_id = serializers.UUIDField()
    tool_call_id = serializers.CharField(source="call_id")
    args = serializers.DictField(source="arguments")
    reason = serializers.SerializerMethodField()

    class Meta:
        model = ToolCall
        fields = ["run_id", "tool_call_id", "tool", "args", "reason", "started_at"]

    def get_reason(self, call: ToolCall) -> str:
        return "outcome_unknown"


class SettleRequestSerializer(serializers.Serializer[Any]):
    decision = serializers.ChoiceField(choices=Decision.choices)
    result = serializers.JSONField(required=False, help_text="With `happened`: what the tool came to.")


class SettledSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["queued", "awaiting_approval"])


class ApprovalsView(APIView):
    """What waits for a person in a session, before its run can go on."""

    @extend_schema(
        operation_id="approvals",
        tags=["runs"],
        summary="List what waits for a person",
        responses={200: ApprovalSerializer(many=True), **_ERRORS},
    )
    def get(self, request: Request, session_id: str) -> Response:
        calls = calls_to_settle(get_session(request.user, session_id))
        return Response(ApprovalSerializer(calls, many=True).data)


class SettleView(APIView):
    """Say what became of a tool that was at work when its worker was lost.

    `happened` with its result, `rerun` if it took no effect, `unknown` to let the agent find out. When the last such
    call of a run is settled, the run goes on.
    """

    serializer_class = SettleRequestSerializer

    @extend_schema(
        operation_id="tool_calls_settle",
        tags=["runs"],
        summary="Settle a tool call",
        request=SettleRequestSerializer,
        responses={200: SettledSerializer, **_ERRORS},
    )
    def post(self, request: Request, run_id: str, call_id: str) -> Response:
        run = get_run(request.user, run_id)
        command = SettleRequestSerializer(data=request.data)
        command.is_valid(raise_exception=True)
        goes_on = settle_call(
            run=run,
            call_id=call_id,
            decision=Decision(command.validated_data["decision"]),
            result=command.validated_data.get("result", "It took effect."),
            user=request.user,
        )
        return Response({"status": "queued" if goes_on else "awaiting_approval"})

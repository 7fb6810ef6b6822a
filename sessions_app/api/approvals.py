"""The REST views of tool calls: what waits for a person, the decision about it, and what a call came to."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from sessions_app.access import get_run, get_session
from sessions_app.api.serializers import ErrorSerializer, StrictCharField
from sessions_app.errors import ToolCallNotFoundError
from sessions_app.models import Decision, ToolCall, ToolCallDecision, ToolCallStatus
from sessions_app.services.deciding import Verdict, decisions_for, settle_call, waiting_calls

_ERRORS = dict.fromkeys((400, 401, 404, 409), ErrorSerializer)
APPROVAL, OUTCOME_UNKNOWN = "approval", "outcome_unknown"


class ApprovalSerializer(serializers.ModelSerializer[ToolCall]):
    run_id = serializers.UUIDField()
    tool_call_id = serializers.CharField(source="call_id")
    args = serializers.DictField(source="arguments")
    reason = serializers.SerializerMethodField()
    decisions = serializers.SerializerMethodField()

    class Meta:
        model = ToolCall
        fields = ["run_id", "tool_call_id", "tool", "args", "reason", "decisions", "started_at", "expires_at"]

    def get_reason(self, call: ToolCall) -> str:
        return APPROVAL if call.status == ToolCallStatus.AWAITING else OUTCOME_UNKNOWN

    def get_decisions(self, call: ToolCall) -> list[str]:
        return [decision.value for decision in decisions_for(call)]


class SettleRequestSerializer(serializers.Serializer[Any]):
    decision = serializers.ChoiceField(choices=Decision.choices)
    args = serializers.DictField(required=False, help_text="With `approved`: the arguments to run it with instead.")
    result = serializers.JSONField(required=False, help_text="With `happened`: what the tool came to.")
    reason = StrictCharField(
        required=False, allow_blank=True, max_length=2_000, help_text="With `denied`: what the agent is told."
    )

    def validate(self, values: dict[str, Any]) -> dict[str, Any]:
        fits = {"args": Decision.APPROVED, "result": Decision.HAPPENED}
        for name, decision in fits.items():
            if name in values and values["decision"] != decision:
                raise serializers.ValidationError({name: f"This goes with the decision `{decision.value}` only."})
        return values

    def verdict(self) -> Verdict:
        """What was decided; only once the request is valid."""
        values = self.validated_data
        return Verdict(
            Decision(values["decision"]),
            arguments=values.get("args"),
            result=values.get("result", "It took effect."),
            reason=values.get("reason", ""),
        )


class SettledSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["queued", "awaiting_approval"])


class DecisionSerializer(serializers.ModelSerializer[ToolCallDecision]):
    args = serializers.DictField(source="arguments", allow_null=True)
    decided_by = serializers.CharField(source="decided_by.username", default=None, allow_null=True)

    class Meta:
        model = ToolCallDecision
        fields = ["decision", "args", "result", "reason", "decided_by", "decided_at"]


class ToolCallRecordSerializer(serializers.ModelSerializer[ToolCall]):
    run_id = serializers.UUIDField()
    tool_call_id = serializers.CharField(source="call_id")
    args = serializers.DictField(source="arguments")
    edited_args = serializers.DictField(source="edited_arguments", allow_null=True)
    result = serializers.CharField(
        source="stored_result", help_text="The whole of it, if it was too large for the conversation."
    )
    decisions = DecisionSerializer(many=True)

    class Meta:
        model = ToolCall
        fields = [
            "run_id",
            "tool_call_id",
            "tool",
            "args",
            "edited_args",
            "status",
            "is_error",
            "cost",
            "result",
            "planned_at",
            "started_at",
            "finished_at",
            "expires_at",
            "decisions",
        ]


class ApprovalsView(APIView):
    """What waits for a person in a session, before its run can go on."""

    @extend_schema(
        operation_id="approvals",
        tags=["runs"],
        summary="List what waits for a person",
        responses={200: ApprovalSerializer(many=True), **_ERRORS},
    )
    def get(self, request: Request, session_id: str) -> Response:
        calls = waiting_calls(get_session(request.user, session_id))
        return Response(ApprovalSerializer(calls, many=True).data)


class ToolCallView(APIView):
    """One tool call: its arguments, what became of it, and who decided about it."""

    @extend_schema(
        operation_id="tool_calls_get",
        tags=["runs"],
        summary="Read a tool call",
        responses={200: ToolCallRecordSerializer, **_ERRORS},
    )
    def get(self, request: Request, run_id: str, call_id: str) -> Response:
        run = get_run(request.user, run_id)
        call = ToolCall.objects.prefetch_related("decisions__decided_by").filter(run=run, call_id=call_id).first()
        if call is None:
            raise ToolCallNotFoundError()
        return Response(ToolCallRecordSerializer(call).data)


class SettleView(APIView):
    """Decide about a tool call that waits for a person.

    One that needs approval: `approved` (with other `args`, if you like) or `denied` (with a `reason`). One that was at
    work when its worker was lost: `happened` with its result, `rerun` if it took no effect, `unknown` to let the agent
    find out. When the last such call of a run is settled, the run goes on.
    """

    serializer_class = SettleRequestSerializer

    @extend_schema(
        operation_id="tool_calls_settle",
        tags=["runs"],
        summary="Decide about a tool call",
        request=SettleRequestSerializer,
        responses={200: SettledSerializer, **_ERRORS},
    )
    def post(self, request: Request, run_id: str, call_id: str) -> Response:
        run = get_run(request.user, run_id)
        command = SettleRequestSerializer(data=request.data)
        command.is_valid(raise_exception=True)
        goes_on = settle_call(run=run, call_id=call_id, verdict=command.verdict(), user=request.user)
        return Response({"status": "queued" if goes_on else "awaiting_approval"})

"""The REST views of budgets: what applies to a session, how much is left, and raising it."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from monitoring.models import BudgetPause
from monitoring.models.quota import Action, Measure, Period, Scope
from monitoring.quota_rules import MAX_LIMIT
from monitoring.raising import BudgetNotFoundError, budgets_of, raise_for_owner
from sessions_app.access import get_session
from sessions_app.api.serializers import ErrorSerializer

_ERRORS = dict.fromkeys((401, 404, 429), ErrorSerializer)
_AMOUNT: dict[str, Any] = {"max_digits": 18, "decimal_places": 6}


class WaitingSerializer(serializers.Serializer[Any]):
    run_id = serializers.UUIDField()
    needed = serializers.SerializerMethodField()

    def get_needed(self, pause: BudgetPause) -> str:
        return pause.quota.shown(pause.needed)


class BudgetSerializer(serializers.Serializer[Any]):
    budget_id = serializers.IntegerField(source="quota.pk")
    name = serializers.CharField(source="quota.name")
    scope = serializers.ChoiceField(Scope.choices, source="quota.scope")
    measure = serializers.ChoiceField(Measure.choices, source="quota.measure")
    period = serializers.ChoiceField(Period.choices, source="quota.period")
    period_start = serializers.DateTimeField(help_text="1970 for all time.")
    limit = serializers.DecimalField(**_AMOUNT, normalize_output=True)
    used = serializers.DecimalField(**_AMOUNT, normalize_output=True)
    reserved = serializers.DecimalField(**_AMOUNT, normalize_output=True, help_text="By calls under way.")
    left = serializers.DecimalField(**_AMOUNT, normalize_output=True)
    action = serializers.ChoiceField(Action.choices, source="quota.action", help_text="At the limit.")
    owner_limit = serializers.DecimalField(
        **_AMOUNT, normalize_output=True, source="quota.owner_limit", help_text="Up to which you may raise it."
    )
    waiting = WaitingSerializer(source="pause", allow_null=True, help_text="The run of this session that waits for it.")


class RaiseSerializer(serializers.Serializer[Any]):
    amount = serializers.DecimalField(**_AMOUNT, max_value=MAX_LIMIT, help_text="What is added to the limit.")


class BudgetsView(APIView):
    """The budgets that apply to a session: those of its own, its owner, its agent type, groups and the site."""

    @extend_schema(
        operation_id="budgets_list",
        tags=["usage"],
        summary="List a session's budgets",
        responses={200: BudgetSerializer(many=True), **_ERRORS},
    )
    def get(self, request: Request, session_id: str) -> Response:
        session = get_session(request.user, session_id)
        return Response(BudgetSerializer(budgets_of(session), many=True).data)


class BudgetRaiseView(APIView):
    """Add to a budget of your own, where its operator allows it. Runs that wait for it go on."""

    serializer_class = RaiseSerializer

    @extend_schema(
        operation_id="budgets_raise",
        tags=["usage"],
        summary="Raise a budget",
        request=RaiseSerializer,
        responses={200: BudgetSerializer, 400: ErrorSerializer, 403: ErrorSerializer, **_ERRORS},
    )
    def post(self, request: Request, session_id: str, budget_id: str) -> Response:
        session = get_session(request.user, session_id)
        command = RaiseSerializer(data=request.data)
        command.is_valid(raise_exception=True)
        if not budget_id.isdecimal() or len(budget_id) > 18:
            raise BudgetNotFoundError()
        amount = command.validated_data["amount"]
        state = raise_for_owner(user=request.user, session=session, quota_id=int(budget_id), amount=amount)
        return Response(BudgetSerializer(state).data)

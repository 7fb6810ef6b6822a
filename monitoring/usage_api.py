"""The REST view of usage: what the caller's model calls have used, as JSON or CSV."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from monitoring.usage import KEYS, MAX_ROWS, SUMS, UsageQuestion, sum_up
from sessions_app.api.serializers import ErrorSerializer
from sessions_app.csv_export import as_csv
from sessions_app.errors import InvalidRequestError

_DEFAULT_DAYS = 30
_OF_STAFF = "Only staff see the usage of others."


class UsageSumsSerializer(serializers.Serializer[Any]):
    calls = serializers.IntegerField(help_text="Model calls.")
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField(help_text="Part of the input.")
    reasoning_tokens = serializers.IntegerField(help_text="Part of the output.")
    tool_calls = serializers.IntegerField(help_text="That the answers asked for.")
    cost = serializers.DecimalField(max_digits=None, decimal_places=6, normalize_output=True)
    estimated_calls = serializers.IntegerField(help_text="Whose provider reported no usage: counted here.")


class UsageRowSerializer(UsageSumsSerializer):
    """Has those of these that it is summed up by."""

    hour = serializers.DateTimeField(required=False)
    day = serializers.DateTimeField(required=False)
    month = serializers.DateTimeField(required=False)
    user = serializers.CharField(required=False)
    agent_type = serializers.CharField(required=False, allow_null=True)
    model = serializers.CharField(required=False)
    session = serializers.UUIDField(required=False, allow_null=True, help_text="null: it is deleted.")
    purpose = serializers.CharField(required=False)

    def to_representation(self, instance: dict[str, Any]) -> dict[str, Any]:
        shown = super().to_representation(instance)
        return {name: shown[name] for name in instance}


class UsageSerializer(serializers.Serializer[Any]):
    since = serializers.DateTimeField()
    until = serializers.DateTimeField(help_text="Not included.")
    by = serializers.ListField(child=serializers.ChoiceField(KEYS))
    rows = UsageRowSerializer(many=True, help_text=f"The newest {MAX_ROWS} at most.")
    totals = UsageSumsSerializer(help_text="Of all, also of rows that were left out.")
    truncated = serializers.BooleanField(help_text="There were more rows.")


class CsvRenderer(BaseRenderer):
    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> str:
        header = [*data["by"], *SUMS]
        return "".join(as_csv(header, ([row[name] for name in header] for row in data["rows"])))


class UsageView(APIView):
    """What model calls have used, summed up; with `as=csv` or `Accept: text/csv` the rows as CSV."""

    renderer_classes = [JSONRenderer, BrowsableAPIRenderer, CsvRenderer]

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        if request.query_params.get("as") == "csv":
            return CsvRenderer(), CsvRenderer.media_type
        return super().perform_content_negotiation(request, force)

    def handle_exception(self, exc: Exception) -> Response:
        response = super().handle_exception(exc)
        if isinstance(getattr(self.request, "accepted_renderer", None), CsvRenderer):
            self.request.accepted_renderer, self.request.accepted_media_type = JSONRenderer(), "application/json"
        return response

    @extend_schema(
        operation_id="usage",
        tags=["usage"],
        summary="What your model calls have used",
        parameters=[
            OpenApiParameter("from", str, description="A date or a time, in UTC if it says nothing else; 30 days ago."),
            OpenApiParameter("to", str, description="A date, which is included, or a time, which is not; now."),
            OpenApiParameter("by", str, description=f"With commas: {', '.join(KEYS)} (user: staff only). day."),
            OpenApiParameter("user", str, description="Staff: somebody's username, or * for everybody."),
            OpenApiParameter("as", str, description="csv", enum=["csv"]),
        ],
        responses={
            (200, "application/json"): UsageSerializer,
            (200, "text/csv"): OpenApiTypes.STR,
            **dict.fromkeys((400, 401, 403, 429), ErrorSerializer),
        },
    )
    def get(self, request: Request) -> Response:
        question = _question(request)
        answer = sum_up(question)
        body = {"rows": answer.rows, "totals": answer.totals, "truncated": answer.is_truncated}
        fields = {"since": question.since, "until": question.until, "by": question.by, **body}
        return Response(UsageSerializer(fields).data)


def _question(request: Request) -> UsageQuestion:
    """Raises InvalidRequestError, PermissionDenied."""
    asked = request.query_params
    if asked.get("as") not in (None, "", "csv"):
        raise InvalidRequestError("`as` is csv, or left out.")
    until = _moment("to", asked.get("to"), is_end=True) or timezone.now()
    since = _moment("from", asked.get("from")) or until - timedelta(days=_DEFAULT_DAYS)
    if since >= until:
        raise InvalidRequestError("`from` is before `to`.")
    return UsageQuestion(since, until, _by(request, asked.get("by") or "day"), _owner_id(request, asked.get("user")))


def _by(request: Request, text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in KEYS]:
        raise InvalidRequestError(f"`by` has {', '.join(KEYS)}, with commas; not {unknown[0][:50]!r}.")
    if "user" in names and not request.user.is_staff:
        raise PermissionDenied(_OF_STAFF)
    return names


def _owner_id(request: Request, username: str | None) -> int | None:
    caller: Any = request.user
    if not username or username == caller.get_username():
        return int(caller.pk)
    if not caller.is_staff:
        raise PermissionDenied(_OF_STAFF)
    if username == "*":
        return None
    owner = get_user_model().objects.filter(username=username).first() if "\0" not in username else None
    if owner is None:
        raise InvalidRequestError("There is no such `user`.")
    return int(owner.pk)


def _moment(name: str, text: str | None, *, is_end: bool = False) -> datetime | None:
    """A date is its beginning, or for the end of a time its own end."""
    if not text:
        return None
    try:
        moment = parse_datetime(text) if len(text) > len("2026-01-01") else parse_date(text)
        if isinstance(moment, datetime):
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(moment, date):
            return datetime.combine(moment, time(), UTC) + timedelta(days=int(is_end))
    except (ValueError, OverflowError):
        pass
    raise InvalidRequestError(f"`{name}` is a date or a time, such as 2026-01-31 or 2026-01-31T12:00:00Z.")

"""What the REST views of sessions take and give."""

from typing import Any

import orjson
from django.conf import settings
from rest_framework import serializers

from sessions_app.errors import StateTooLargeError
from sessions_app.models import AgentSession, ApiToken, Message, Run, RunStatus


class StateField(serializers.DictField):
    """A JSON object of at most MAX_STATE_BYTES."""

    def to_internal_value(self, data: Any) -> Any:
        value = super().to_internal_value(data)
        if len(orjson.dumps(value)) > settings.MAX_STATE_BYTES:
            raise StateTooLargeError(f"A state document has at most {settings.MAX_STATE_BYTES} bytes.")
        return value


class StrictCharField(serializers.CharField):
    """A text: DRF's own field also takes numbers and turns them into texts."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return str(super().to_internal_value(data))


def ttl_field(**options: Any) -> serializers.IntegerField:
    return serializers.IntegerField(min_value=60, max_value=settings.SESSION_MAX_TTL_SECONDS, **options)


class CreateSessionSerializer(serializers.Serializer[Any]):
    agent_type = StrictCharField(required=False, max_length=100, help_text="A name from GET /agents.")
    title = StrictCharField(required=False, allow_blank=True, max_length=200)
    initial_context = StateField(required=False, help_text="The state document to begin with.")
    ttl_seconds = ttl_field(required=False, help_text="Idle seconds until the session expires.")


class UpdateSessionSerializer(serializers.Serializer[Any]):
    title = StrictCharField(required=False, allow_blank=True, max_length=200)
    state = StateField(required=False)
    ttl_seconds = ttl_field(required=False)


class ExtendSerializer(serializers.Serializer[Any]):
    extra_seconds = serializers.IntegerField(min_value=1, max_value=settings.SESSION_MAX_TTL_SECONDS)


class ForkSerializer(serializers.Serializer[Any]):
    message_id = serializers.IntegerField(
        required=False, min_value=1, max_value=2**63 - 1, help_text="The last message to take along; else all."
    )
    title = StrictCharField(required=False, allow_blank=True, max_length=200)


class SessionUsageSerializer(serializers.Serializer[AgentSession]):
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()


class SessionSerializer(serializers.ModelSerializer[AgentSession]):
    session_id = serializers.UUIDField(source="id")
    agent_type = serializers.CharField(source="agent_type.name")
    state = serializers.DictField()
    usage = SessionUsageSerializer(source="*")
    worked_seconds = serializers.FloatField(help_text="How long its runs were at work.")
    max_worked_seconds = serializers.SerializerMethodField(help_text="How long they may be, in all; null: no limit.")

    class Meta:
        model = AgentSession
        fields = [
            "session_id",
            "agent_type",
            "created_at",
            "last_active",
            "expires_at",
            "message_count",
            "title",
            "state",
            "usage",
            "worked_seconds",
            "max_worked_seconds",
            "forked_from",
        ]

    def get_max_worked_seconds(self, session: AgentSession) -> int | None:
        return settings.MAX_SESSION_DURATION_SECONDS or None


class DeletedSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["deleted"])


class MessageSerializer(serializers.ModelSerializer[Message]):
    run_id = serializers.UUIDField()

    class Meta:
        model = Message
        fields = [
            "id",
            "run_id",
            "role",
            "content",
            "thought",
            "tool_calls",
            "tool_call_id",
            "tool_name",
            "is_error",
            "is_partial",
            "is_pinned",
            "duration_ms",
            "token_count",
            "created_at",
        ]


class HistoryQuerySerializer(serializers.Serializer[Any]):
    limit = serializers.IntegerField(default=50, min_value=1, max_value=200)
    before = serializers.IntegerField(required=False, min_value=1, max_value=2**63 - 1)


class HistorySerializer(serializers.Serializer[Any]):
    messages = MessageSerializer(many=True)
    before = serializers.IntegerField(allow_null=True, help_text="Asks for the page before this one.")
    cursor = serializers.CharField(help_text="Continues with the events behind this page.")


class RunUsageSerializer(serializers.Serializer[Run]):
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField()


class RunErrorSerializer(serializers.Serializer[Run]):
    code = serializers.CharField()
    message = serializers.CharField()


class RunSerializer(serializers.ModelSerializer[Run]):
    run_id = serializers.UUIDField(source="id")
    session_id = serializers.UUIDField()
    usage = RunUsageSerializer(source="*")
    tool_calls = serializers.IntegerField(source="tool_call_count")
    cost = serializers.DecimalField(
        max_digits=18, decimal_places=6, normalize_output=True, help_text="By the site's price table."
    )
    rolled_back = serializers.BooleanField(source="is_rolled_back")
    cursor = serializers.CharField(source="terminal_cursor", help_text="The id of the run's last event.")
    error = serializers.SerializerMethodField()
    waiting_position = serializers.SerializerMethodField(
        help_text="Its place among the runs that wait for a free slot; 1 is next, 0: no worker can take it. Null: it "
        "does not wait."
    )

    class Meta:
        model = Run
        fields = [
            "run_id",
            "session_id",
            "status",
            "agent_version",
            "attempt",
            "retry_of",
            "steered_into",
            "rolled_back",
            "usage",
            "tool_calls",
            "cost",
            "error",
            "created_at",
            "started_at",
            "finished_at",
            "waiting_position",
            "cursor",
        ]

    def get_waiting_position(self, run: Run) -> int | None:
        return run.waiting_position if run.status == RunStatus.QUEUED else None

    def get_error(self, run: Run) -> dict[str, str] | None:
        return {"code": run.error_code, "message": run.error_message} if run.error_code else None


class TicketSerializer(serializers.Serializer[Any]):
    ticket = serializers.CharField()
    expires_in = serializers.IntegerField(help_text="Seconds.")


class TokenSerializer(serializers.ModelSerializer[ApiToken]):
    class Meta:
        model = ApiToken
        fields = ["id", "name", "prefix", "requests_per_minute", "created_at", "expires_at", "revoked_at"]


class CreateTokenSerializer(serializers.Serializer[Any]):
    name = StrictCharField(max_length=100)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    requests_per_minute = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=2**31 - 1, help_text="Of this token, within your own."
    )


class CreatedTokenSerializer(TokenSerializer):
    token = serializers.CharField(help_text="Shown only now.")

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "token"]


class ErrorDetailSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()
    fields_ = serializers.DictField(required=False)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        fields["fields"] = fields.pop("fields_")  # `fields` itself is the serializer's own attribute
        return fields


class ErrorSerializer(serializers.Serializer[Any]):
    """Every error, of every endpoint."""

    error = ErrorDetailSerializer()

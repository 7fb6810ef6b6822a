"""What the REST views of turns take and give."""

from typing import Any

from django.conf import settings
from rest_framework import serializers

from sessions_app.api.serializers import StrictCharField
from sessions_app.models import AgentType, OnBusy


class ChatRequestSerializer(serializers.Serializer[Any]):
    # Its length and its characters are checked where every way in passes: chat/runs/start.py.
    message = StrictCharField(
        trim_whitespace=False, allow_blank=True, style={"base_template": "textarea.html"}, validators=[]
    )
    stream = serializers.BooleanField(default=True)
    on_busy = serializers.ChoiceField(
        choices=OnBusy.choices,
        required=False,
        allow_blank=True,
        help_text="What to do while another turn runs; else as the agent type says.",
    )


class ContextPartSerializer(serializers.Serializer[Any]):
    part = serializers.ChoiceField(
        choices=["system", "tools", "pinned", "summary", "recent", "excerpts", "turn"],
        help_text="In the prompt's order.",
    )
    tokens = serializers.IntegerField()
    why = serializers.CharField()
    items = serializers.ListField(child=serializers.DictField(), help_text="Messages or summaries.")


class LeftOutSerializer(serializers.Serializer[Any]):
    messages = serializers.IntegerField()
    tokens = serializers.IntegerField()


class ContextSerializer(serializers.Serializer[Any]):
    strategy = serializers.CharField()
    shares = serializers.DictField(child=serializers.FloatField())
    model = serializers.CharField()
    limit = serializers.IntegerField(help_text="Tokens of prompt and answer, as they are counted here.")
    reserve = serializers.IntegerField(help_text="Of those, kept free for the answer.")
    ratio = serializers.FloatField(help_text="The provider's count to ours, by its newest answers.")
    tokens = serializers.IntegerField(help_text="Of the whole prompt.")
    is_whole = serializers.BooleanField(help_text="Nothing is left out.")
    parts = ContextPartSerializer(many=True)
    left_out = LeftOutSerializer()
    notes = serializers.ListField(child=serializers.CharField())


class RetryRequestSerializer(serializers.Serializer[Any]):
    stream = serializers.BooleanField(default=True)


class ToolCallSerializer(serializers.Serializer[Any]):
    tool_call_id = serializers.CharField()
    tool = serializers.CharField()
    args = serializers.DictField()
    result = serializers.JSONField(required=False)
    is_error = serializers.BooleanField(required=False)


class AnswerSerializer(serializers.Serializer[Any]):
    response = serializers.CharField()
    thought_process = serializers.ListField(child=serializers.CharField())
    tool_calls = ToolCallSerializer(many=True)
    run_id = serializers.UUIDField()
    usage = serializers.DictField(child=serializers.IntegerField())


class CancelRequestSerializer(serializers.Serializer[Any]):
    run_id = serializers.UUIDField(required=False, help_text="Only this run; else all that is active.")


class CancelSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["cancelled", "cancelling"])


class AgentTypeSerializer(serializers.ModelSerializer[AgentType]):
    is_default = serializers.SerializerMethodField()

    class Meta:
        model = AgentType
        fields = ["name", "title", "description", "tools", "on_busy", "is_default"]

    def get_is_default(self, agent_type: AgentType) -> bool:
        return bool(agent_type.name == settings.DEFAULT_AGENT_TYPE)

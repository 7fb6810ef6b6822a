"""Agent types: what an operator configures without code."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin

from sessions_app.models import AgentType


class AgentTypeForm(forms.ModelForm):
    """Refuses runtimes and tools that the settings do not name."""

    runtime = forms.ChoiceField(choices=lambda: [(name, name) for name in settings.AGENT_RUNTIMES])
    tools = forms.MultipleChoiceField(
        choices=lambda: [(name, name) for name in settings.AGENT_TOOLS],
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field, setting in (("runtime", "AGENT_RUNTIMES"), ("tools", "AGENT_TOOLS")):
            names = ", ".join(getattr(settings, setting))
            self.fields[field].error_messages["invalid_choice"] = (
                f"Select a valid choice. %(value)s is not in the setting {setting}, which has: {names}."
            )

    class Meta:
        model = AgentType
        fields = (
            "name",
            "title",
            "description",
            "runtime",
            "model",
            "system_prompt",
            "tools",
            "max_steps",
            "max_attempts",
            "on_busy",
            "unknown_outcome",
            "is_enabled",
        )


@admin.register(AgentType)
class AgentTypeAdmin(admin.ModelAdmin):
    form = AgentTypeForm
    list_display = ("name", "title", "runtime", "model", "is_enabled", "updated_at")
    list_filter = ("runtime", "is_enabled")
    search_fields = ("name", "title", "description")
    readonly_fields = ("created_at", "updated_at")

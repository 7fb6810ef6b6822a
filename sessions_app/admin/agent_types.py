"""Agent types: what an operator configures without code."""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from sessions_app.admin.readonly import ReadOnlyAdmin, list_link
from sessions_app.models import AgentType, AgentTypeVersion, McpServer


def _checkboxes(names: Any) -> forms.MultipleChoiceField:
    return forms.MultipleChoiceField(
        choices=lambda: [(name, name) for name in names()], required=False, widget=forms.CheckboxSelectMultiple
    )


def _mcp_servers() -> Iterable[str]:
    return McpServer.objects.values_list("name", flat=True)


class AgentTypeForm(forms.ModelForm):
    """Offers what the settings name, and refuses all else."""

    runtime = forms.ChoiceField(choices=lambda: [(name, name) for name in settings.AGENT_RUNTIMES])
    tools = _checkboxes(lambda: settings.AGENT_TOOLS)
    eager_tools = _checkboxes(lambda: settings.AGENT_TOOLS)
    mcp_servers = _checkboxes(_mcp_servers)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("tools", "eager_tools", "mcp_servers"):
            self.fields[name].help_text = getattr(AgentType._meta.get_field(name), "help_text", "")
        for field, setting in (("runtime", "AGENT_RUNTIMES"), ("tools", "AGENT_TOOLS")):
            names = ", ".join(getattr(settings, setting))
            self.fields[field].error_messages["invalid_choice"] = (
                f"Select a valid choice. %(value)s is not in the setting {setting}, which has: {names}."
            )

    def _clean_list(self, name: str) -> list[str]:
        return self.cleaned_data[name] or []  # an empty JSON field would become null

    def clean_fallback_models(self) -> list[str]:
        return self._clean_list("fallback_models")

    def clean_context_shares(self) -> dict[str, float]:
        return self.cleaned_data["context_shares"] or {}

    def clean_required_capabilities(self) -> list[str]:
        return self._clean_list("required_capabilities")

    class Meta:
        model = AgentType
        fields = "__all__"  # noqa: DJ007 (the admin lists them in its fieldsets)


@admin.register(AgentType)
class AgentTypeAdmin(admin.ModelAdmin):
    form = AgentTypeForm
    list_display = ("name", "title", "runtime", "model", "version", "is_enabled", "updated_at")
    list_filter = ("runtime", "is_enabled")
    search_fields = ("name", "title", "description")
    readonly_fields = ("version", "versions_link", "created_at", "updated_at")
    fieldsets = (
        (None, {"fields": ("name", "title", "description", "is_enabled", "version", "versions_link")}),
        ("Agent", {"fields": ("runtime", "system_prompt", "response_schema")}),
        ("Context", {"fields": ("context_strategy", "context_shares", "max_context_tokens", "summary_model")}),
        ("Model", {"fields": ("model", "fallback_models", "model_retries", "max_output_tokens")}),
        ("Tools", {"fields": ("tools", "mcp_servers", "max_parallel_tools", "eager_tools")}),
        ("Approvals", {"fields": ("approval_policy", "approval_timeout_seconds", "on_approval_expiry")}),
        (
            "Runs",
            {
                "fields": (
                    "on_busy",
                    "max_steps",
                    "max_run_seconds",
                    "max_step_seconds",
                    "max_attempts",
                    "unknown_outcome",
                )
            },
        ),
        ("Routing", {"fields": ("routing_strategy", "required_capabilities")}),
        (None, {"fields": ("created_at", "updated_at")}),
    )

    def save_model(self, request: HttpRequest, obj: AgentType, form: Any, change: bool) -> None:
        obj.save(changed_by=request.user)

    @admin.display(description="versions")
    def versions_link(self, obj: AgentType) -> SafeString | str:
        if not obj.pk:
            return "-"
        return list_link(AgentTypeVersion, f"agent_type__id__exact={obj.pk}", "What it was before")


@admin.register(AgentTypeVersion)
class AgentTypeVersionAdmin(ReadOnlyAdmin):
    list_display = ("agent_type", "version", "created_at", "created_by")
    list_filter = ("agent_type",)
    list_select_related = ("agent_type", "created_by")
    readonly_fields = ("created_at",)


@admin.register(McpServer)
class McpServerAdmin(admin.ModelAdmin):
    list_display = ("name", "transport", "is_enabled", "state", "last_seen_at")
    readonly_fields = ("listed_tools", "last_seen_at", "last_error", "created_at", "updated_at")
    list_filter = ("transport", "is_enabled")
    search_fields = ("name", "url")

    @admin.display
    def state(self, server: McpServer) -> str:
        if server.last_error:
            return server.last_error
        return f"{len(server.listed_tools)} tools" if server.last_seen_at else "not seen yet"

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, form=McpServerForm, **kwargs)


class McpServerForm(forms.ModelForm):
    """An empty JSON field is an empty list or object, not null."""

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        for name in ("command", "allowed_tools", "idempotent_tools", "approval_tools"):
            cleaned[name] = cleaned.get(name) or []
        cleaned["headers"] = cleaned.get("headers") or {}
        return cleaned

"""Sessions with their history, runs, messages and events."""

import json
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import formats, timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from sessions_app import queries
from sessions_app.admin.readonly import ReadOnlyAdmin, list_link
from sessions_app.models import AgentSession, Event, Message, Run, Summary, ToolCall
from sessions_app.services.working_time import reset_working_time

HISTORY_SHOWN = 50


@admin.register(AgentSession)
class AgentSessionAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "owner", "agent_type", "message_count", "tokens", "last_active", "is_deleted")
    list_filter = ("agent_type", ("deleted_at", admin.EmptyFieldListFilter), "last_active")
    list_select_related = ("owner", "agent_type")
    search_fields = ("id", "title", "owner__username")
    date_hierarchy = "created_at"
    fields = (
        ("id", "owner", "agent_type"),
        ("title", "message_count", "input_tokens", "output_tokens"),
        ("created_at", "last_active", "expires_at", "deleted_at"),
        ("epoch", "ttl_seconds", "worked"),
        "state",
        "records",
        "history",
    )
    readonly_fields = ("worked", "records", "history")
    actions = ("reset_working_time",)

    def has_reset_permission(self, request: HttpRequest) -> bool:
        """The record is nobody's to change, but whoever may change sessions may do this."""
        return request.user.has_perm("sessions_app.change_agentsession")

    @admin.action(description="Give it its working time again", permissions=["reset"])
    def reset_working_time(self, request: HttpRequest, sessions: QuerySet[AgentSession]) -> None:
        for session in sessions:
            self.log_change(request, session, f"Gave it its working time again; it had worked {self.worked(session)}.")
        reset_working_time(sessions=sessions)
        messages.success(request, "They may work as long as new sessions.")

    @admin.display(description="at work")
    def worked(self, session: AgentSession) -> str:
        limit = settings.MAX_SESSION_DURATION_SECONDS
        return f"{session.worked_seconds:,.1f} s" + (f" of {limit:,} s" if limit else "")

    @admin.display(description="tokens in / out")
    def tokens(self, session: AgentSession) -> str:
        return f"{session.input_tokens:,} / {session.output_tokens:,}"

    @admin.display(boolean=True, description="deleted")
    def is_deleted(self, session: AgentSession) -> bool:
        return session.deleted_at is not None

    def records(self, session: AgentSession) -> SafeString:
        query = f"session__id__exact={session.pk}"
        links = [(list_link(model, query, text),) for model, text in _RECORDS if model is not ToolCall]
        tools = list_link(ToolCall, f"run__session__id__exact={session.pk}", "Tool calls")
        return format_html_join(" · ", "{}", [*links, (tools,)])

    @admin.display(description=f"the newest {HISTORY_SHOWN} messages")
    def history(self, session: AgentSession) -> SafeString:
        newest = queries.history(session, limit=HISTORY_SHOWN).messages
        rows = ((message.role, _moment(message.created_at), _said(message)) for message in newest)
        body = format_html_join("", '<tr><th>{}</th><td>{}</td><td style="white-space:pre-wrap">{}</td></tr>', rows)
        return format_html("<table>{}</table>", body)


def _moment(at: datetime) -> str:
    return formats.date_format(timezone.localtime(at), "Y-m-d H:i:s")


def _said(message: Message) -> str:
    """What a message says, and which tools it calls."""
    calls = [f"→ {call['name']}({json.dumps(call['arguments'], ensure_ascii=False)})" for call in message.tool_calls]
    return "\n".join([message.content, *calls] if message.content else calls)


_RECORDS = (
    (Run, "Runs"),
    (Message, "Messages"),
    (Event, "Events"),
    (Summary, "Summaries"),
    (ToolCall, "Tool calls"),
)


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "session", "owner", "turn", "attempt", "created_at", "seconds", "tokens", "error_code")
    list_filter = ("status", "session__agent_type", "error_code", "created_at")
    list_select_related = ("session__owner", "session__agent_type")
    search_fields = ("id", "session__id", "session__owner__username", "error_message")
    date_hierarchy = "created_at"
    readonly_fields = ("id", "created_at", "records")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup == "session__id__exact" or super().lookup_allowed(lookup, value, request)

    @admin.display(ordering="session__owner")
    def owner(self, run: Run) -> Any:
        return run.session.owner

    @admin.display(description="seconds")
    def seconds(self, run: Run) -> str:
        if run.started_at is None or run.finished_at is None:
            return "–"
        return f"{(run.finished_at - run.started_at).total_seconds():.2f}"

    @admin.display(description="tokens in / out")
    def tokens(self, run: Run) -> str:
        return f"{run.input_tokens:,} / {run.output_tokens:,}"

    def records(self, run: Run) -> SafeString:
        query = f"run__id__exact={run.pk}"
        links = [(list_link(model, query, text),) for model, text in _RECORDS if model not in (Run, Summary)]
        return format_html_join(" · ", "{}", links)


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin):
    list_display = ("short", "role", "session", "turn", "position", "token_count", "is_partial", "created_at")
    list_filter = ("role", "is_partial", "is_error", "created_at")
    list_select_related = ("session",)
    search_fields = ("content", "session__id", "run__id")
    readonly_fields = ("created_at",)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup.endswith("__id__exact") or super().lookup_allowed(lookup, value, request)

    @admin.display(description="content")
    def short(self, message: Message) -> str:
        return message.content[:80] or f"({len(message.tool_calls)} tool calls)"


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("cursor", "type", "short", "session", "run", "created_at")
    list_filter = ("type", "created_at")
    list_select_related = ("session", "run")
    search_fields = ("session__id", "run__id")
    readonly_fields = ("cursor", "created_at")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup.endswith("__id__exact") or super().lookup_allowed(lookup, value, request)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        return super().get_queryset(request).order_by("-created_at", "-epoch", "-seq")

    def cursor(self, event: Event) -> str:
        return f"{event.epoch}-{event.seq}"

    @admin.display(description="data")
    def short(self, event: Event) -> str:
        return str(event.data)[:100]

"""The ledger of tools' effects, and what of it waits for a person."""

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from sessions_app.admin.deciding import decide
from sessions_app.admin.readonly import ReadOnlyAdmin
from sessions_app.errors import AgentsiteError
from sessions_app.models import Decision, RunStatus, ToolCall, ToolCallDecision, ToolCallStatus
from sessions_app.services.deciding import Verdict, settle_call


class WaitingFilter(admin.SimpleListFilter):
    """Calls whose outcome a person has to settle, before their runs go on."""

    title = "waits for a person"
    parameter_name = "waits"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "Yes")]

    def queryset(self, request: HttpRequest, calls: QuerySet[ToolCall]) -> QuerySet[ToolCall]:
        if self.value() != "1":
            return calls
        waiting = Q(status="awaiting") | Q(status="unknown", decision="")
        return calls.filter(waiting, run__status=RunStatus.AWAITING_APPROVAL)


def _settle_as(decision: Decision, description: str) -> Callable[..., None]:
    @admin.action(description=description, permissions=["settle"])
    def action(self: Any, request: HttpRequest, calls: QuerySet[ToolCall]) -> None:
        settled = 0
        for call in calls.select_related("run"):
            try:
                result = "It took effect." if decision == Decision.HAPPENED else None
                verdict = Verdict(decision, result=result)
                settle_call(run=call.run, call_id=call.call_id, verdict=verdict, user=request.user)
            except AgentsiteError as error:
                messages.error(request, f"{call}: {error.message}")
            else:
                settled += 1
                self.log_change(request, call, f"Settled as {decision.value}.")
        messages.success(request, f"{settled} settled.")

    action.__name__ = f"settle_as_{decision.value}"
    return action


class DecisionInline(admin.TabularInline):
    """Who decided what, and when."""

    model = ToolCallDecision
    extra = 0
    fields = readonly_fields = ("decision", "arguments", "result", "reason", "decided_by", "decided_at")
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ToolCall)
class ToolCallAdmin(ReadOnlyAdmin):
    list_display = ("tool", "status", "run", "call_id", "planned_at", "finished_at", "decision", "cost", "decide")
    list_filter = (WaitingFilter, "status", "decision", "is_idempotent", "planned_at")
    list_select_related = ("run",)
    ordering = ("-pk",)
    search_fields = ("call_id", "tool", "run__id", "run__session__id", "idempotency_key")
    readonly_fields = ("planned_at",)
    inlines = (DecisionInline,)
    actions = (
        _settle_as(Decision.APPROVED, "Approve: run it"),
        _settle_as(Decision.DENIED, "Deny: do not run it"),
        _settle_as(Decision.HAPPENED, "Settle: it took effect"),
        _settle_as(Decision.RERUN, "Settle: it took no effect, run it again"),
        _settle_as(Decision.UNKNOWN, "Settle: tell the agent that nobody knows"),
    )

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(partial(decide, self))
        return [path("<int:call_id>/decide/", view, name="sessions_app_toolcall_decide"), *super().get_urls()]

    @admin.display(description="")
    def decide(self, call: ToolCall) -> SafeString | str:
        is_open = call.status == ToolCallStatus.AWAITING or (
            call.status == ToolCallStatus.UNKNOWN and not call.decision
        )
        if not is_open or call.run.status != RunStatus.AWAITING_APPROVAL:
            return ""
        return format_html('<a href="{}">Decide</a>', reverse("admin:sessions_app_toolcall_decide", args=[call.pk]))

    def has_settle_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("sessions_app.change_toolcall")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup.endswith("__id__exact") or super().lookup_allowed(lookup, value, request)

"""Usage: what each model call has used, with the totals of what is listed, and all of it as CSV."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet, Sum
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.urls import path

from sessions_app.admin.readonly import ReadOnlyAdmin
from sessions_app.csv_export import as_csv, csv_download
from sessions_app.models import UsageRecord

_TOTALS = {
    "calls": Count("pk"),
    "input": Sum("input_tokens"),
    "cached": Sum("cached_tokens"),
    "output": Sum("output_tokens"),
    "reasoning": Sum("reasoning_tokens"),
    "cost": Sum("cost"),
}
# column -> where it comes from
_COLUMNS = {
    "id": "pk",
    "created_at": "created_at",
    "owner": "owner__username",
    "session_id": "session_id",
    "run_id": "run_id",
    "agent_type": "agent_type__name",
    "purpose": "purpose",
    "model": "model",
    "input_tokens": "input_tokens",
    "cached_tokens": "cached_tokens",
    "output_tokens": "output_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "counted_tokens": "counted_tokens",
    "is_estimated": "is_estimated",
    "tool_calls": "tool_calls",
    "cost": "cost",
    "queue_ms": "queue_ms",
    "wall_ms": "wall_ms",
}
_PAGE = 2_000  # rows of one query of an export


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = (
        *("created_at", "owner", "model", "tokens", "cost_shown", "purpose", "agent_type", "wall_ms"),
        "is_estimated",
    )
    list_filter = ("agent_type", "model", "purpose", "is_estimated", "created_at")
    list_select_related = ("owner", "agent_type")
    search_fields = ("owner__username", "session__id", "run__id")
    date_hierarchy = "created_at"
    readonly_fields = ("created_at",)
    actions = ("export_selected",)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.export_listed)
        return [path("export/", view, name="sessions_app_usagerecord_export"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        shown = getattr(response, "context_data", None) or {}
        if "cl" in shown:
            totals = totals_of(shown["cl"].queryset)
            shown["totals"] = [(name, f"{Decimal(value or 0).normalize():,f}") for name, value in totals.items()]
        return response

    def export_listed(self, request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
        """Everything that the list shows by its filters and its search, not one page."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            records = self.get_changelist_instance(request).queryset
        except IncorrectLookupParameters:
            return redirect("admin:sessions_app_usagerecord_changelist")
        return _download(request, records)

    @admin.action(description="Export the selected as CSV", permissions=["view"])
    def export_selected(self, request: HttpRequest, records: QuerySet[UsageRecord]) -> StreamingHttpResponse:
        return _download(request, records)

    @admin.display(description="tokens in / out", ordering="input_tokens")
    def tokens(self, record: UsageRecord) -> str:
        return f"{record.input_tokens:,} / {record.output_tokens:,}"

    @admin.display(description="cost", ordering="cost")
    def cost_shown(self, record: UsageRecord) -> str:
        return f"{record.cost.normalize():f}"


def totals_of(records: QuerySet[UsageRecord]) -> dict[str, Any]:
    return dict(records.order_by().aggregate(**_TOTALS))


def _download(request: HttpRequest, records: QuerySet[UsageRecord]) -> StreamingHttpResponse:
    return csv_download(request, "usage.csv", as_csv(list(_COLUMNS), _rows(records)))


def _rows(records: QuerySet[UsageRecord]) -> Iterator[tuple[Any, ...]]:
    """Oldest first, a page a query: PgBouncer has no server-side cursors."""
    ordered = records.order_by("pk").values_list(*_COLUMNS.values())
    page = list(ordered[:_PAGE])
    while page:
        yield from page
        page = list(ordered.filter(pk__gt=page[-1][0])[:_PAGE])

"""Summaries: what they replaced in the prompts, and the way back."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from sessions_app.admin.readonly import ReadOnlyAdmin
from sessions_app.models import Summary
from sessions_app.services.summaries import restore_summary, revert_summary


@admin.register(Summary)
class SummaryAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "session", "message_count", "tokens_before", "tokens_after", "made_by", "is_standing")
    list_filter = ("level", "made_by", "is_fallback", "created_at")
    list_select_related = ("session",)
    search_fields = ("session__id", "text")
    ordering = ("-pk",)
    readonly_fields = ("created_at",)
    actions = ("revert", "restore")

    @admin.display(boolean=True, description="stands")
    def is_standing(self, summary: Summary) -> bool:
        return summary.replaced_at is None and summary.reverted_at is None

    @admin.action(description="Revert: show the messages instead", permissions=["settle"])
    def revert(self, request: HttpRequest, summaries: QuerySet[Summary]) -> None:
        reverted = sum(len(revert_summary(summary=summary)) for summary in summaries)
        messages.success(request, f"{reverted} reverted.")

    @admin.action(description="Restore: let it stand again", permissions=["settle"])
    def restore(self, request: HttpRequest, summaries: QuerySet[Summary]) -> None:
        for summary in summaries.filter(replaced_at=None):
            restore_summary(summary=summary)
        messages.success(request, "Restored.")

    def has_settle_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("sessions_app.change_summary")

    def lookup_allowed(self, lookup: str, value: object, request: HttpRequest) -> bool:
        return lookup.endswith("__id__exact") or super().lookup_allowed(lookup, str(value), request)

from django.contrib import admin

from sessions_app.admin.readonly import ReadOnlyAdmin
from sessions_app.models import UsageRecord


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "owner", "agent_type", "model", "input_tokens", "output_tokens", "is_estimated")
    list_filter = ("agent_type", "model", "is_estimated", "created_at")
    list_select_related = ("owner", "agent_type")
    search_fields = ("owner__username", "session__id", "run__id")
    date_hierarchy = "created_at"
    readonly_fields = ("created_at",)

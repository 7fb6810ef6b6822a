"""Who changed which limit, and when."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from monitoring.admin.showing import NamingChangeList, named, subject_link
from monitoring.models import QuotaChange
from sessions_app.admin.readonly import ReadOnlyAdmin


@admin.register(QuotaChange)
class QuotaChangeAdmin(ReadOnlyAdmin):
    list_display = ("changed_at", "name", "whose", "what", "who")
    list_filter = ("changed_at", "name")
    list_select_related = ("changed_by",)
    search_fields = ("name", "changed_by__username", "subject")
    date_hierarchy = "changed_at"
    fields = ("changed_at", "quota", "name", "whose", "what", "before", "after", "who")
    readonly_fields = ("changed_at", "whose", "what", "who")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[NamingChangeList]:
        return NamingChangeList

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup == "quota__id__exact" or super().lookup_allowed(lookup, value, request)

    @admin.display(description="of")
    def whose(self, change: QuotaChange) -> SafeString | str:
        return subject_link(named(change)) if change.subject else ""

    @admin.display(description="changed by")
    def who(self, change: QuotaChange) -> str:
        return str(change.changed_by) if change.changed_by_id else "a setting, or gone"

    @admin.display(description="change")
    def what(self, change: QuotaChange) -> SafeString | str:
        before, after = change.before or {}, change.after or {}
        if not after:
            return "deleted"
        differing = [name for name in after if before.get(name) != after[name]]
        if not before:
            return f"made: {after.get('limit')} {after.get('measure')}"
        steps = format_html_join(
            ", ", "{} {} → {}", ((_words(n), _value(before.get(n)), _value(after[n])) for n in differing)
        )
        return format_html("{}{}", "raised: " if change.subject else "", steps)


def _words(name: str) -> str:
    return name.replace("_", " ").removeprefix("is ")


def _value(value: Any) -> str:
    names = {True: "yes", False: "no", None: "none", "": "none"}
    return names.get(value, str(value))

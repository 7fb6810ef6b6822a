"""Quotas: the limits of the site, of groups, people, agent types, sessions and runs."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from monitoring.accounts import Subject, current_accounts, name_subjects, with_fullest
from monitoring.admin.showing import amount, number, raise_link, share, subject_link
from monitoring.changing import delete_quota, save_quota
from monitoring.models import Account, BudgetPause, Measure, Period, Quota, QuotaChange
from monitoring.quota_rules import TARGETS
from sessions_app.admin.readonly import list_link

ACCOUNTS_SHOWN = 50
LIVE_SECONDS = 5  # between two looks at the accounts, while the page is open
_FIELDSETS_OF_SETTINGS: Any = (
    (None, {"fields": ("name", "is_enabled", "set_by")}),
    ("What is limited", {"fields": ("whom", "measure", "period")}),
    ("How much", {"fields": ("limit_shown", "action", "warn_percent", "owner_limit")}),
)
_PER = {
    Period.NONE: "at once",
    Period.MINUTE: "a minute",
    Period.HOUR: "an hour",
    Period.DAY: "a day",
    Period.MONTH: "a month",
    Period.TOTAL: "in all",
}
_OF_SETTINGS = ("name", "scope", *TARGETS, "measure", "period", "limit", "is_enabled")


class AmountField(forms.DecimalField):
    """Without the zeros that the column keeps."""

    def prepare_value(self, value: Any) -> Any:
        return f"{value.normalize():f}" if hasattr(value, "normalize") else value


class QuotaForm(forms.ModelForm):
    class Meta:
        model = Quota
        fields = "__all__"  # noqa: DJ007 (the admin lists them in its fieldsets)
        field_classes = {"limit": AmountField, "owner_limit": AmountField}
        labels = {"owner_limit": "Owners may raise to"}
        help_texts = {
            "scope": "What it is of. Without a name below it is of each of them by itself.",
            "group": "Only for scope group: this one. Its members share the limit.",
            "user": "Only for scope user: this one.",
            "agent_type": "Only for scope agent type: this one.",
            "session": "Only for scope session: this one.",
            "measure": "Tokens and cost are budgets: each model call is reserved in them before it is made.",
            "period": "In UTC. Of a run always all time. A changed period begins with what was used in it already.",
            "action": "What happens to a run that meets a budget. Concurrent runs wait and rates are refused, whatever "
            "stands here.",
        }


@admin.register(Quota)
class QuotaAdmin(admin.ModelAdmin):
    form = QuotaForm
    list_display = ("name", "whom", "says", "at_limit", "fullest", "is_enabled")
    list_filter = ("scope", "measure", "period", "action", "is_enabled", ("setting", admin.EmptyFieldListFilter))
    list_select_related = TARGETS
    list_per_page = 50
    search_fields = ("name", "user__username", "group__name", "agent_type__name", "session__title")
    autocomplete_fields = TARGETS
    readonly_fields = ("whom", "limit_shown", "set_by", "records", "accounts_of_now", "created_at", "updated_at")
    fieldsets = (
        (None, {"fields": ("name", "is_enabled")}),
        ("What is limited", {"fields": ("scope", *TARGETS, "measure", "period")}),
        ("How much", {"fields": ("limit", "action", "warn_percent", "owner_limit")}),
        ("In use now", {"fields": ("records", "accounts_of_now")}),
        (None, {"fields": ("created_at", "updated_at")}),
    )

    class Media:
        css = {"all": ["monitoring/admin.css"]}
        js = ["monitoring/live.js"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Quota]:
        return with_fullest(super().get_queryset(request))

    def get_fieldsets(self, request: HttpRequest, obj: Quota | None = None) -> Any:
        fieldsets: Any = super().get_fieldsets(request, obj)
        if obj and obj.setting:
            return [*_FIELDSETS_OF_SETTINGS, *fieldsets[3:]]
        return fieldsets if obj else fieldsets[:3]

    def get_readonly_fields(self, request: HttpRequest, obj: Quota | None = None) -> Any:
        read_only = super().get_readonly_fields(request, obj)
        return (*read_only, *_OF_SETTINGS) if obj and obj.setting else read_only

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        for name in TARGETS:  # what is chosen here is made elsewhere
            if widget := getattr(form.base_fields.get(name), "widget", None):
                widget.can_add_related = widget.can_change_related = False
                widget.can_delete_related = widget.can_view_related = False
        return form

    def has_delete_permission(self, request: HttpRequest, obj: Quota | None = None) -> bool:
        return not (obj and obj.setting) and super().has_delete_permission(request, obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Its accounts go with it, and they are nobody's to delete otherwise."""
        quotas = list(objs)
        kept = {f"{quota}, set by {quota.setting}" for quota in quotas if quota.setting}
        counts = {"quotas": len(quotas), "accounts": Account.objects.filter(quota__in=quotas).count()}
        return [str(quota) for quota in quotas], counts, kept, []

    def save_model(self, request: HttpRequest, obj: Quota, form: Any, change: bool) -> None:
        save_quota(quota=obj, user=request.user)

    def delete_model(self, request: HttpRequest, obj: Quota) -> None:
        delete_quota(quota=obj, user=request.user)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Quota]) -> None:
        for quota in queryset:
            delete_quota(quota=quota, user=request.user)

    @admin.display(description="limit", ordering="limit")
    def says(self, quota: Quota) -> str:
        measure, limit = quota.measure.replace("_", " "), number(quota.limit)
        said = f"cost {limit}" if quota.measure == Measure.COST else f"{limit} {measure}"
        return f"{said} {_PER[Period(quota.period)]}"

    @admin.display(description="at the limit", ordering="action")
    def at_limit(self, quota: Quota) -> str:
        return str(quota.get_action_display()).partition(":")[0]

    @admin.display(description="of", ordering="scope")
    def whom(self, quota: Quota) -> str:
        scope = quota.get_scope_display()
        if quota.scope == "site":
            return scope
        target = getattr(quota, quota.scope, None)
        return f"each {scope}" if target is None else f"{scope} {target}"

    @admin.display(description="limit")
    def limit_shown(self, quota: Quota) -> str:
        return number(quota.limit)

    @admin.display(description="fullest now", ordering="fullest")
    def fullest(self, quota: Quota) -> SafeString | str:
        return share(quota.fullest) if quota.is_budget and quota.is_enabled else "–"  # type: ignore[attr-defined]

    @admin.display(description="set by")
    def set_by(self, quota: Quota) -> SafeString:
        return format_html("the setting <code>{}</code>, which keeps what it says true", quota.setting)

    @admin.display(description="records")
    def records(self, quota: Quota) -> SafeString:
        query = f"quota__id__exact={quota.pk}"
        links = [
            list_link(Account, query, "All accounts"),
            list_link(BudgetPause, query, "Runs that wait for it"),
            list_link(QuotaChange, query, "Changes"),
        ]
        return format_html("{} · {} · {}", *links)

    @admin.display(description=f"accounts, the fullest {ACCOUNTS_SHOWN}")
    def accounts_of_now(self, quota: Quota) -> SafeString | str:
        if not quota.is_budget:
            return "Only budgets of tokens and cost have accounts."
        accounts = current_accounts(Quota.objects.filter(pk=quota.pk))[:ACCOUNTS_SHOWN]
        return _table(list(accounts))


def _table(accounts: list[Account]) -> SafeString | str:
    if not accounts:
        return "Nobody has used it in this period."
    names = name_subjects(account.subject for account in accounts)
    rows = format_html_join("", _ROW, (_cells(account, names[account.subject]) for account in accounts))
    return format_html(_TABLE, LIVE_SECONDS, rows)


_TABLE = (
    '<table class="accounts" data-live="{}"><thead><tr><th>of</th><th>used</th><th>reserved</th><th>limit</th><th></th>'
    "<th></th></tr></thead><tbody>{}</tbody></table>"
)
_ROW = '<tr><th scope="row">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>'


def _cells(account: Account, subject: Subject) -> tuple[SafeString | str, ...]:
    quota = account.quota
    return (
        subject_link(subject),
        amount(quota, account.used) if account.is_counted else "not summed up yet",
        amount(quota, account.reserved),
        amount(quota, account.limit),
        share(account.percent),  # type: ignore[attr-defined]
        raise_link(account),
    )

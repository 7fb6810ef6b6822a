"""Accounts: what each quota's subjects have used and reserved, and raising one."""

from functools import partial
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import path
from django.utils.safestring import SafeString

from monitoring.accounts import current_accounts, find_subjects, period_start, with_percent
from monitoring.admin.raising import raise_budget
from monitoring.admin.showing import NamingChangeList, amount, named, raise_link, share, subject_link
from monitoring.models import Account, BudgetPause, Period
from sessions_app.admin.readonly import ReadOnlyAdmin, list_link


class CurrentFilter(admin.SimpleListFilter):
    title = "now"
    parameter_name = "now"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "Its period holds now"), ("0", "Its period is over")]

    def queryset(self, request: HttpRequest, accounts: QuerySet[Account]) -> QuerySet[Account]:
        current = current_accounts().order_by().values("pk")
        if self.value() == "1":
            return accounts.filter(pk__in=current)
        return accounts.exclude(pk__in=current) if self.value() == "0" else accounts


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    list_display = ("whose", "quota", "period", "percent", "raise_it", "taken")
    list_filter = (CurrentFilter, "quota", "quota__period")
    search_fields = ("subject",)
    search_help_text = "A person, group, agent type or session; or user:5, session:<id> …"
    fields = (
        ("whose", "quota", "period"),
        ("used_shown", "reserved_shown", "limit_shown", "percent"),
        "extra_shown",
        ("is_counted", "warned_at"),
        "runs",
        "raise_it",
    )
    readonly_fields = (
        *("whose", "period", "used_shown", "reserved_shown", "limit_shown", "percent", "extra_shown", "runs"),
        "raise_it",
    )

    class Media:
        css = {"all": ["monitoring/admin.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Account]:
        return with_percent()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[NamingChangeList]:
        return NamingChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Account], search_term: str
    ) -> tuple[QuerySet[Account], bool]:
        return queryset.filter(find_subjects(search_term.strip())) if search_term.strip() else queryset, False

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(partial(raise_budget, self))
        return [path("<int:account_id>/raise/", view, name="monitoring_account_raise"), *super().get_urls()]

    @admin.display(description="of", ordering="subject")
    def whose(self, account: Account) -> SafeString | str:
        return subject_link(named(account))

    @admin.display(ordering="period_start")
    def period(self, account: Account) -> str:
        return shown_period(account)

    @admin.display(description="used + reserved of limit", ordering="used")
    def taken(self, account: Account) -> str:
        return f"{self.used_shown(account)} + {self.reserved_shown(account)} of {self.limit_shown(account)}"

    @admin.display(description="used")
    def used_shown(self, account: Account) -> str:
        return amount(account.quota, account.used) if account.is_counted else "not summed up yet"

    @admin.display(description="reserved")
    def reserved_shown(self, account: Account) -> str:
        return amount(account.quota, account.reserved)

    @admin.display(description="limit")
    def limit_shown(self, account: Account) -> str:
        return amount(account.quota, account.limit)

    @admin.display(description="added to the limit")
    def extra_shown(self, account: Account) -> str:
        return amount(account.quota, account.extra)

    @admin.display(description="in use", ordering="percent")
    def percent(self, account: Account) -> SafeString | str:
        return share(account.percent)  # type: ignore[attr-defined]

    @admin.display(description="waiting")
    def runs(self, account: Account) -> SafeString:
        query = f"quota__id__exact={account.quota_id}&subject={account.subject}"
        return list_link(BudgetPause, query, "Runs that wait for it")

    @admin.display(description="raise")
    def raise_it(self, account: Account) -> SafeString | str:
        return raise_link(account) if is_current(account) else ""


def is_current(account: Account) -> bool:
    return account.period_start == period_start(account.quota.period)


def shown_period(account: Account) -> str:
    if account.quota.period == Period.TOTAL:
        return "all time"
    form = {"hour": "%Y-%m-%d %H:00", "month": "%Y-%m"}.get(account.quota.period, "%Y-%m-%d")
    return account.period_start.strftime(form)

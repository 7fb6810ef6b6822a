"""How amounts, shares and subjects are shown."""

from decimal import Decimal
from typing import Any

from django.contrib.admin.views.main import ChangeList
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from monitoring.accounts import Subject, name_subjects
from monitoring.models import Account, Quota

_NEARLY_FULL, _FULL = 80, 100  # percent


def amount(quota: Quota, units: int) -> str:
    """What an account counts, as people read it: 12,500 tokens, or 3.25 of the currency."""
    return number(quota.amount(units))


def number(value: Decimal | None) -> str:
    return "–" if value is None else f"{value.normalize():,f}"


def share(percent: float | None) -> SafeString | str:
    """A bar and the number; a limit of 0 has none."""
    if percent is None:
        return "–"
    kind = "full" if percent >= _FULL else "nearly" if percent >= _NEARLY_FULL else "room"
    bar = '<span class="share {}"><span style="width:{}%"></span></span>&nbsp;{}&nbsp;%'
    return format_html(bar, kind, min(round(percent), 100), f"{percent:.1f}".removesuffix(".0"))


def subject_link(subject: Subject) -> SafeString | str:
    if subject.row is None:
        return subject.name
    meta = subject.row._meta
    url = reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[subject.row.pk])
    return format_html('<a href="{}">{}</a>', url, subject.name)


def raise_link(account: Account) -> SafeString:
    return format_html('<a href="{}">Raise</a>', reverse("admin:monitoring_account_raise", args=[account.pk]))


class NamingChangeList(ChangeList):
    """Names all subjects of its page at once, for `named`."""

    def get_results(self, request: Any) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        names = name_subjects(row.subject for row in self.result_list if row.subject)
        for row in self.result_list:
            row.named = names.get(row.subject, Subject(row.subject))


def named(row: Any) -> Subject:
    return row.named if hasattr(row, "named") else name_subjects([row.subject])[row.subject]

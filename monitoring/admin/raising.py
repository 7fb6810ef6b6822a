"""The admin's page on which staff raise one account for its period."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse

from monitoring.accounts import name_subjects, period_start, with_percent
from monitoring.admin.showing import amount, number
from monitoring.models import Account, BudgetPause, Quota
from monitoring.quota_rules import MAX_LIMIT
from monitoring.raising import raise_account
from sessions_app.errors import AgentsiteError


class RaiseForm(forms.Form):
    amount = forms.DecimalField(
        label="Raise by", max_value=MAX_LIMIT, decimal_places=6, help_text="It is added to the limit, for this period."
    )

    def __init__(self, quota: Quota, data: Any = None) -> None:
        super().__init__(data)
        self._quota = quota

    def clean_amount(self) -> Any:
        value = self.cleaned_data["amount"]
        if value <= 0:
            raise forms.ValidationError("It is above 0: a budget is lowered at its quota.")
        if not self._quota.amount(self._quota.units(value)) == value:
            raise forms.ValidationError("It is a whole number.")
        return value


def raise_budget(admin: "ModelAdmin[Account]", request: HttpRequest, account_id: int) -> HttpResponse:
    """Show the form, or do what it says; to the account's page then."""
    if not request.user.has_perm("monitoring.change_account"):
        raise PermissionDenied
    account = get_object_or_404(with_percent(), pk=account_id)
    if account.period_start != period_start(account.quota.period):
        messages.error(request, "Its period is over: nothing counts in it any more.")
        return redirect("admin:monitoring_account_changelist")
    form = RaiseForm(account.quota, request.POST or None)
    if request.method == "POST" and form.is_valid() and _raise(admin, request, account, form.cleaned_data["amount"]):
        return redirect("admin:monitoring_account_change", account.pk)
    return TemplateResponse(request, "admin/monitoring/raise.html", _context(admin, request, account, form))


def _raise(admin: "ModelAdmin[Account]", request: HttpRequest, account: Account, value: Any) -> bool:
    try:
        raise_account(account=account, amount=value, user=request.user)
    except AgentsiteError as error:
        messages.error(request, error.message)
        return False
    admin.log_change(request, account, f"Raised by {number(value)}.")
    messages.success(request, f"Raised by {number(value)}. Runs that waited for it and fit now go on.")
    return True


def _context(admin: "ModelAdmin[Account]", request: HttpRequest, account: Account, form: RaiseForm) -> dict[str, Any]:
    quota = account.quota
    return {
        **admin.admin_site.each_context(request),
        "title": f"Raise {quota}",
        "opts": Account._meta,
        "form": form,
        "account": account,
        "subject": name_subjects([account.subject])[account.subject].name,
        "used": amount(quota, account.used),
        "reserved": amount(quota, account.reserved),
        "limit": amount(quota, account.limit),
        "waiting": BudgetPause.objects.filter(quota=quota, subject=account.subject).count(),
    }

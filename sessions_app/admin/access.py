"""API tokens and login links: secrets are shown once, or never."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from sessions_app.admin.readonly import ReadOnlyAdmin
from sessions_app.models import ApiToken, LoginLink
from sessions_app.services.tokens import create_token, revoke_token


@admin.register(ApiToken)
class ApiTokenAdmin(admin.ModelAdmin):
    list_display = ("name", "owner", "prefix", "requests_per_minute", "created_at", "expires_at", "revoked_at")
    list_filter = (("revoked_at", admin.EmptyFieldListFilter), "created_at")
    list_select_related = ("owner",)
    search_fields = ("name", "prefix", "owner__username")
    autocomplete_fields = ("owner",)
    actions = ("revoke",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        asked = ("owner", "name", "expires_at", "requests_per_minute")
        return asked if obj is None else (*asked, "prefix", "created_at", "revoked_at")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_change_permission(request)

    def save_model(self, request: HttpRequest, obj: Any, form: forms.ModelForm, change: bool) -> None:
        asked = {name: getattr(obj, name) for name in ("owner", "name", "expires_at", "requests_per_minute")}
        token, plaintext = create_token(**asked)
        obj.pk, obj.prefix = token.pk, token.prefix  # for the admin's log
        messages.success(request, f"The token, shown only now: {plaintext}")

    @admin.action(description="Revoke the selected tokens", permissions=["change"])
    def revoke(self, request: HttpRequest, tokens: QuerySet[ApiToken]) -> None:
        unrevoked = list(tokens.filter(revoked_at=None))
        for token in unrevoked:
            revoke_token(token=token)
        messages.success(request, f"{len(unrevoked)} revoked.")


@admin.register(LoginLink)
class LoginLinkAdmin(ReadOnlyAdmin):
    list_display = ("user", "created_at", "expires_at", "used_at")
    list_filter = (("used_at", admin.EmptyFieldListFilter), "created_at")
    list_select_related = ("user",)
    search_fields = ("user__username",)
    readonly_fields = ("created_at",)

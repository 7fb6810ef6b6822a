"""One-time login links, such as the one that `make run` prints."""

import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from sessions_app.models import LoginLink
from sessions_app.services.tokens import hash_secret


def create_login_link(*, user: Any) -> str:
    """Make a link that logs this user in once; returns its path."""
    secret = secrets.token_urlsafe(32)
    expires_at = timezone.now() + timedelta(seconds=settings.LOGIN_LINK_SECONDS)
    LoginLink.objects.create(user=user, token_hash=hash_secret(secret), expires_at=expires_at)
    return f"/login/once/{secret}"


def use_login_link(*, secret: str) -> Any | None:
    """The link's user, for the first caller before its end; else None."""
    now = timezone.now()
    links = LoginLink.objects.filter(token_hash=hash_secret(secret))
    # No condition on the user here: a join would make Django put all conditions into a subquery, which Postgres does
    # not check again when it has waited for another who uses the link.
    if not links.filter(used_at=None, expires_at__gt=now).update(used_at=now):
        return None
    user = links.select_related("user").get().user
    return user if user.is_active else None


def purge_login_links() -> int:
    deleted, _ = LoginLink.objects.filter(expires_at__lt=timezone.now()).delete()
    return deleted

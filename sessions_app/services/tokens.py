"""API tokens: made once, kept as a hash, revoked."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.utils import timezone

from sessions_app.models import ApiToken

_PREFIX = "as_"


@dataclass(frozen=True)
class Bearer:
    """A usable token, as its requests' `auth`."""

    owner: Any
    token_id: int
    requests_per_minute: int | None


def hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create_token(
    *, owner: Any, name: str, expires_at: datetime | None = None, requests_per_minute: int | None = None
) -> tuple[ApiToken, str]:
    """Make a token; its plaintext, the second value, is not kept and cannot be shown again."""
    plaintext = _PREFIX + secrets.token_urlsafe(32)
    token = ApiToken.objects.create(
        owner=owner,
        name=name,
        token_hash=hash_secret(plaintext),
        prefix=plaintext[:9],
        expires_at=expires_at,
        requests_per_minute=requests_per_minute,
    )
    return token, plaintext


def revoke_token(*, token: ApiToken) -> None:
    ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())


def find_bearer(plaintext: str) -> Bearer | None:
    """The usable token of this text, with its owner. Each request asks this, hence the SQL."""
    users = get_user_model()
    found = users.objects.raw(
        f"""
        SELECT u.*, t.id AS token_id, t.requests_per_minute AS token_rate
        FROM sessions_app_apitoken t JOIN {users._meta.db_table} u ON u.id = t.owner_id
        WHERE t.token_hash = %s AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())
          AND u.is_active
        """,  # noqa: S608 (a table's name)
        [hash_secret(plaintext)],
    )
    owner: Any = next(iter(found), None)
    return Bearer(owner, owner.token_id, owner.token_rate) if owner else None

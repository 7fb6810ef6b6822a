"""API tokens: made once, kept as a hash, revoked."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connection
from django.db.models import Model
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
    """The usable token of this text, with its owner. Each request asks this, hence the SQL, and not even a raw() of
    the ORM's."""
    users = get_user_model()
    with connection.cursor() as cursor:
        cursor.execute(_find_bearer_sql(users), [hash_secret(plaintext)])
        row = cursor.fetchone()
    if row is None:
        return None
    token_id, requests_per_minute, *columns = row
    fields = [field.attname for field in users._meta.concrete_fields]
    return Bearer(users.from_db(connection.alias, fields, columns), token_id, requests_per_minute)


@cache
def _find_bearer_sql(users: type[Model]) -> str:
    columns = ", ".join(f'u."{field.column}"' for field in users._meta.concrete_fields)
    return f"""
        SELECT t.id, t.requests_per_minute, {columns}
        FROM sessions_app_apitoken t JOIN "{users._meta.db_table}" u ON u.id = t.owner_id
        WHERE t.token_hash = %s AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())
          AND u.is_active
        """  # noqa: S608 (the names of the table and of its columns)

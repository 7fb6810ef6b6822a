"""API tokens and login links."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from sessions_app.models import ApiToken, LoginLink
from sessions_app.services.login_links import create_login_link, use_login_link
from sessions_app.services.tokens import create_token, find_bearer

pytestmark = pytest.mark.django_db


def test_a_token_is_kept_only_as_a_hash(user: Any) -> None:
    token, plaintext = create_token(owner=user, name="t")
    assert getattr(find_bearer(plaintext), "owner", None) == user
    assert plaintext not in str(ApiToken.objects.filter(pk=token.pk).values().get())


def test_a_token_of_no_use_is_refused(user: Any) -> None:
    _, expired = create_token(owner=user, name="t", expires_at=timezone.now() - timedelta(seconds=1))
    assert find_bearer(expired) is None
    _, plaintext = create_token(owner=user, name="t")
    user.is_active = False
    user.save()
    assert find_bearer(plaintext) is None


def test_tokens_over_rest(api: APIClient, other_user: Any) -> None:
    made = api.post("/tokens", {"name": "ci"}, format="json").json()
    assert find_bearer(made["token"]) is not None
    assert "token" not in api.get("/tokens").json()["results"][0]
    assert api.delete(f"/tokens/{made['id']}").status_code == 200
    assert find_bearer(made["token"]) is None
    foreign, _ = create_token(owner=other_user, name="t")
    assert api.delete(f"/tokens/{foreign.pk}").status_code == 404


def test_a_login_link_works_once(client: Any, user: Any) -> None:
    path = create_login_link(user=user)
    assert client.get(path).status_code == 302
    assert client.get("/tokens").status_code == 200
    again = client.get(path)
    assert again.status_code == 410
    assert client.get("/login/once/nonsense").status_code == 410


def test_a_login_link_ends(user: Any) -> None:
    path = create_login_link(user=user)
    LoginLink.objects.update(expires_at=timezone.now())
    assert use_login_link(secret=path.rsplit("/", 1)[1]) is None


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_two_who_open_a_link_at_once_do_not_both_get_in(user: Any) -> None:
    def use(secret: str) -> bool:
        try:
            return use_login_link(secret=secret) is not None
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            secret = create_login_link(user=user).rsplit("/", 1)[1]
            assert sum(pool.map(use, [secret] * 8)) == 1

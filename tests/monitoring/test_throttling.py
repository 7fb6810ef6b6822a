"""Requests per minute."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from sessions_app.api import throttling
from sessions_app.redis import sync_client

pytestmark = pytest.mark.django_db


def test_the_limit_is_the_callers_own(api: APIClient, other_user: Any, settings: Any) -> None:
    settings.REQUESTS_PER_MINUTE = 3
    statuses = [api.get("/tokens").status_code for _ in range(8)]
    assert statuses[0] == 200
    assert statuses[-1] == 429
    refused = api.get("/tokens")
    assert refused.json()["error"]["code"] == "rate_limited"
    assert 1 <= int(refused["Retry-After"]) <= 60


def test_without_redis_everybody_passes(api: APIClient, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    settings.REQUESTS_PER_MINUTE = 1
    monkeypatch.setattr(throttling, "sync_client", sync_client.__wrapped__)  # not the one that is connected
    assert [api.get("/tokens").status_code for _ in range(3)] == [200] * 3

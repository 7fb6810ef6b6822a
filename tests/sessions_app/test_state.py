"""The session's state document."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db


@pytest.fixture
def url(user: Any) -> str:
    return f"/sessions/{create_session(owner=user).pk}/state"


def test_put_replaces_and_delete_empties(api: APIClient, url: str) -> None:
    assert api.put(url, {"a": {"b": 1}}, format="json").json() == {"a": {"b": 1}}
    assert api.put(url, {"c": 2}, format="json").json() == {"c": 2}
    assert api.delete(url).json() == {}
    assert api.get(url).json() == {}


def test_patch_merges_and_null_removes(api: APIClient, url: str) -> None:
    api.put(url, {"a": {"b": 1, "c": 2}, "d": 3}, format="json")
    assert api.patch(url, {"a": {"b": None, "e": [1]}, "d": None}, format="json").json() == {"a": {"c": 2, "e": [1]}}


@pytest.mark.parametrize("body", ["[]", '"x"', "5", '{"a": "\\u0000"}', "{", '{"a": NaN}'])
def test_it_must_be_an_object_that_can_be_kept(body: str, api: APIClient, url: str) -> None:
    answer = api.put(url, body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in ("invalid_request", "malformed_json")


def test_a_backslash_before_u0000_is_only_text(api: APIClient, url: str) -> None:
    assert api.put(url, '{"a": "\\\\u0000"}', content_type="application/json").json() == {"a": "\\u0000"}


def test_it_is_bounded(api: APIClient, url: str) -> None:
    assert api.put(url, {"a": "x" * 262_144}, format="json").status_code == 413

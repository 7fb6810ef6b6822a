"""Requests per minute, as callers see them: 429, headers on every answer, who is counted with whom."""

import json
import math
from typing import Any

import pytest
from django.test import Client as Browser
from django.urls import reverse
from rest_framework.test import APIClient
from websockets.sync.client import connect

from monitoring import rates
from monitoring.models import Quota
from monitoring.quotas import forget
from sessions_app.models import ApiToken
from sessions_app.redis import sync_client
from sessions_app.services.tokens import create_token
from tests.site import Client, Site

HEADERS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")


def client_of(user: Any, **token: Any) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {create_token(owner=user, name='t', **token)[1]}")
    return client


@pytest.mark.django_db
def test_the_limit_is_the_callers_own(api: APIClient, other_user: Any, settings: Any) -> None:
    settings.REQUESTS_PER_MINUTE = 3
    assert [api.get("/tokens").status_code for _ in range(5)] == [200] * 3 + [429] * 2
    refused = api.get("/tokens")
    assert refused.json()["error"]["code"] == "rate_limited"
    assert 1 <= int(refused["Retry-After"]) <= 20
    assert refused["RateLimit-Reset"] == refused["Retry-After"]
    assert client_of(other_user).get("/tokens").status_code == 200


@pytest.mark.django_db
def test_every_answer_tells_the_rate(api: APIClient, settings: Any) -> None:
    settings.REQUESTS_PER_MINUTE = 4
    answers = [
        api.get("/tokens"),
        api.post("/tokens", {"name": 5}, format="json"),
        api.get("/sessions/nonsense"),
        api.delete("/sessions"),
        api.get("/tokens"),
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 404, 405, 429]
    assert [answer["RateLimit-Limit"] for answer in answers] == ["4"] * 5
    assert [answer["RateLimit-Remaining"] for answer in answers] == ["3", "2", "1", "0", "0"]
    assert [int(answer["RateLimit-Reset"]) for answer in answers] == [15, 30, 45, 60, 15]


@pytest.mark.django_db
def test_without_redis_everybody_passes(api: APIClient, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL, settings.REQUESTS_PER_MINUTE = "redis://127.0.0.1:1/0", 1
    monkeypatch.setattr(rates, "sync_client", sync_client.__wrapped__)  # not the one that is connected
    monkeypatch.setattr(rates._Outage, "until", -math.inf)  # and so it is again afterwards
    answers = [api.get("/tokens") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3


@pytest.mark.django_db
def test_a_quota_is_the_limit(api: APIClient, user: Any) -> None:
    Quota.objects.create(name="q", scope="user", user=user, measure="requests", period="minute", limit=1)
    forget()
    assert [api.get("/tokens").status_code for _ in range(2)] == [200, 429]
    forget()


@pytest.mark.django_db
def test_a_token_may_have_a_limit_of_its_own(user: Any, api: APIClient) -> None:
    small = client_of(user, requests_per_minute=2)
    assert [small.get("/tokens").status_code for _ in range(3)] == [200, 200, 429]
    assert api.get("/tokens").status_code == 200
    assert small.get("/tokens")["RateLimit-Limit"] == "2"


@pytest.mark.django_db
@pytest.mark.parametrize("limit", [0, -1])
def test_a_token_with_an_absurd_limit_is_refused(limit: int, api: APIClient, admin_client: Any, user: Any) -> None:
    answer = api.post("/tokens", {"name": "t", "requests_per_minute": limit}, format="json")
    assert (answer.status_code, list(answer.json()["error"]["fields"])) == (400, ["requests_per_minute"])
    form = {"owner": user.pk, "name": "absurd", "requests_per_minute": limit}
    page = admin_client.post(reverse("admin:sessions_app_apitoken_add"), form)
    assert page.status_code == 200  # the form again
    assert not ApiToken.objects.filter(name="absurd").exists()


@pytest.mark.django_db
def test_strangers_count_for_their_address(settings: Any, api: APIClient) -> None:
    settings.ANONYMOUS_REQUESTS_PER_MINUTE = 2
    anonymous = APIClient()
    wrong = APIClient()
    wrong.credentials(HTTP_AUTHORIZATION="Bearer wrong")
    answers = [
        anonymous.get("/sessions", REMOTE_ADDR="192.0.2.77"),
        wrong.get("/sessions", REMOTE_ADDR="192.0.2.77"),
        wrong.get("/sessions", REMOTE_ADDR="192.0.2.77"),
        anonymous.get("/sessions", REMOTE_ADDR="192.0.2.78"),
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 429, 401]
    assert all(name in answer for name in HEADERS for answer in answers)
    forged = anonymous.get("/sessions", REMOTE_ADDR="192.0.2.77", HTTP_X_FORWARDED_FOR="198.51.100.1")
    assert forged.status_code == 429
    assert api.get("/sessions", REMOTE_ADDR="192.0.2.77").status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_passwords_cannot_be_guessed_without_end(path: str, user: Any, settings: Any) -> None:
    settings.ANONYMOUS_REQUESTS_PER_MINUTE = 3
    browser = Browser(REMOTE_ADDR=f"192.0.2.{len(path)}", headers={"Accept": "text/html"})
    form = {"username": "owner", "password": "wrong"}
    assert [browser.post(path, form).status_code for _ in range(4)] == [200] * 3 + [429]
    refused = browser.post(path, form | {"password": "of the owner"})
    assert refused.status_code == 429
    assert "Too many attempts" in refused.content.decode()
    assert 1 <= int(refused["Retry-After"]) <= 20
    assert browser.get(path).status_code == 200
    elsewhere = Browser(REMOTE_ADDR="192.0.2.200")
    assert elsewhere.post(path, form).status_code == 200


@pytest.mark.django_db
def test_probes_are_not_counted(client: Any, settings: Any) -> None:
    settings.ANONYMOUS_REQUESTS_PER_MINUTE = 1
    answers = [client.get("/health", REMOTE_ADDR="192.0.2.99") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert "RateLimit-Limit" not in answers[0]


# --- the streaming gateway and the WebSocket -------------------------------------------------------------------------


def limited(client: Client, site: Site, limit: int) -> Client:
    made = client.http.post("/tokens", json={"name": "limited", "requests_per_minute": limit}).json()
    return site.client(made["token"])


def test_a_stream_tells_the_rate_and_is_refused(site: Site, client_of_site: Client) -> None:
    session = client_of_site.new_session()
    body = {"message": "hi"}
    with limited(client_of_site, site, 3) as client:
        with client.http.stream("POST", f"/sessions/{session}/chat", json=body) as response:
            assert (response.status_code, response.headers["RateLimit-Limit"]) == (200, "3")
            assert (response.headers["RateLimit-Remaining"], response.headers["RateLimit-Reset"]) == ("2", "20")
            response.read()
        answer = client.http.post(f"/sessions/{session}/chat", json=body | {"stream": False})
        assert (answer.status_code, answer.headers["RateLimit-Remaining"]) == (200, "1")
        answer = client.http.post("/sessions/nonsense/chat", json=body)
        assert (answer.status_code, answer.headers["RateLimit-Remaining"]) == (404, "0")
        refused = client.http.post(f"/sessions/{session}/chat", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
        assert refused.headers["RateLimit-Reset"] == refused.headers["Retry-After"]
        assert client.http.get("/sessions").status_code == 429  # the same bucket
    unknown = client_of_site.http.post(
        f"/sessions/{session}/chat", json=body, headers={"Authorization": "Bearer wrong"}
    )
    assert (unknown.status_code, unknown.headers["RateLimit-Limit"]) == (401, "300")
    assert client_of_site.ask(session, "hi")["status"] == "succeeded"  # another one is not affected


def test_a_frame_over_the_limit_is_answered_and_the_connection_lives_on(site: Site, client_of_site: Client) -> None:
    session = client_of_site.new_session()
    with limited(client_of_site, site, 1) as client:
        header = {"Authorization": str(client.http.headers["Authorization"])}
        with connect(f"{site.ws_url}/ws/{session}", additional_headers=header) as socket:
            types = []
            for _ in range(2):
                socket.send(json.dumps({"type": "chat", "message": "hello"}))
            while "error" not in types or "done" not in types:
                frame = json.loads(socket.recv(timeout=20))
                types.append(frame["type"])
                if frame["type"] == "error":
                    assert frame["data"]["code"] == "rate_limited"
                    assert 1 <= frame["data"]["retry_after"] <= 60
            assert types.count("accepted") == types.count("error") == 1
            socket.send('{"type": "ping"}')
            assert json.loads(socket.recv(timeout=20))["type"] == "pong"

"""Health and metrics."""

from typing import Any

import pytest
from rest_framework.test import APIClient
from websockets.sync.client import connect

from monitoring import health
from tests.site import Client, Site


def test_health_is_cheap_and_public(client: Any) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "healthy")
    assert client.get("/health/").status_code == 200


def test_a_whole_site_is_healthy(client_of_site: Client) -> None:
    answer = client_of_site.http.get("/health/detailed")
    report = answer.json()
    assert (answer.status_code, report["status"]) == (200, "healthy")
    assert {name: check["status"] for name, check in report["checks"].items() if name != "sessions"} == {
        "database": "ok",
        "redis": "ok",
        "llm": "ok",
        "celery": "ok",
        "channel_layer": "ok",
    }
    assert report["checks"]["sessions"]["max"] == 100


@pytest.mark.django_db
def test_without_a_worker_it_is_degraded(client: Any) -> None:
    answer = client.get("/health/detailed")  # the tests' own Valkey has no worker
    report = answer.json()
    assert (answer.status_code, report["status"]) == (503, "degraded")
    assert (report["checks"]["celery"], report["checks"]["llm"]) == ({"status": "down"}, {"status": "not_configured"})


@pytest.mark.django_db
def test_a_dead_redis_is_told_in_neutral_words(client: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = "redis://user:secret@127.0.0.1:1/0"
    answer = client.get("/health/detailed")
    assert answer.json()["checks"]["redis"] == {"status": "down"}
    assert answer.json()["checks"]["database"]["status"] == "ok"
    assert b"secret" not in answer.content


def test_a_model_server_that_is_gone_degrades_but_serves(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.AGENT_MODEL, settings.OPENAI_BASE_URL = "m", "http://127.0.0.1:1/v1"
    monkeypatch.setattr(health, "_model_seen", None)
    assert health._check_model() == {"status": "down"}
    fine = {name: {"status": "ok"} for name in health.NEEDED}
    assert health.is_serving({"checks": {**fine, "llm": {"status": "down"}}})


@pytest.mark.django_db
def test_metrics_are_for_staff(api: APIClient, user: Any, client: Any, settings: Any) -> None:
    assert api.get("/metrics").status_code == 403
    user.is_staff = True
    user.save()
    text = api.get("/metrics").content.decode()
    assert 'agentsite_runs_finished_total{status="succeeded"} 0.0' in text
    settings.METRICS_PUBLIC = True
    assert client.get("/metrics").status_code == 200


def test_metrics_count_a_running_site(site: Site, client_of_site: Client) -> None:
    client_of_site.ask(client_of_site.new_session(), "hello")
    lines = client_of_site.http.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['agentsite_runs_finished_total{status="succeeded"}']) >= 1
    assert float(values["agentsite_workers"]) >= 1


def test_it_stays_healthy_while_sockets_come_and_go(site: Site, client_of_site: Client) -> None:
    session = client_of_site.new_session()
    headers = {"Authorization": f"Bearer {site.token}"}
    for _ in range(5):
        with connect(f"{site.ws_url}/ws/{session}", additional_headers=headers) as socket:
            socket.send('{"type": "ping"}')
            socket.recv(timeout=10)
            assert client_of_site.http.get("/health/detailed").json()["status"] == "healthy"
    assert client_of_site.http.get("/health/detailed").json()["status"] == "healthy"

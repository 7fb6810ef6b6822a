"""REST of sessions: owner, stranger, anonymous; bad input; lists."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from sessions_app.models import AgentSession
from sessions_app.services.sessions import create_session
from sessions_app.services.tokens import create_token

pytestmark = pytest.mark.django_db


@pytest.fixture
def session(user: Any) -> AgentSession:
    return create_session(owner=user, agent_type="demo", title="A title")


@pytest.fixture
def stranger_api(other_user: Any) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {create_token(owner=other_user, name='t')[1]}")
    return client


def post(api: APIClient, url: str, body: Any) -> Any:
    return api.post(url, body, format="json")


def test_it_opens_a_session(api: APIClient) -> None:
    body = {"agent_type": "demo", "title": "T", "initial_context": {"a": 1}, "ttl_seconds": 60}
    answer = post(api, "/sessions", body)
    assert answer.status_code == 201
    info = answer.json()
    assert (info["agent_type"], info["title"], info["state"]) == ("demo", "T", {"a": 1})
    assert info["message_count"] == 0
    assert api.get(f"/sessions/{info['session_id']}").json() == info


def test_it_opens_one_with_the_default_agent(api: APIClient) -> None:
    assert post(api, "/sessions", {}).json()["agent_type"] == "demo"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"agent_type": "nobody"}, "unknown_agent_type", None),
        ({"agent_type": 5}, "invalid_request", "agent_type"),
        ({"title": ["x"]}, "invalid_request", "title"),
        ({"title": "x" * 201}, "invalid_request", "title"),
        ({"ttl_seconds": 1}, "invalid_request", "ttl_seconds"),
        ({"ttl_seconds": "soon"}, "invalid_request", "ttl_seconds"),
        ({"initial_context": "text"}, "invalid_request", "initial_context"),
        ([], "invalid_request", "non_field_errors"),
    ],
    ids=str,
)
def test_it_refuses_what_is_wrong_and_names_it(body: Any, code: str, field: str | None, api: APIClient) -> None:
    answer = post(api, "/sessions", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, code)
    assert field is None or field in error["fields"]
    assert not AgentSession.objects.exists()


def test_it_refuses_a_state_that_is_too_large(api: APIClient) -> None:
    answer = post(api, "/sessions", {"initial_context": {"big": "x" * 300_000}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "state_too_large")
    assert not AgentSession.objects.exists()


@pytest.mark.parametrize(
    "query", ["limit=abc", "limit=0", "limit=-1", "limit=1.5", "offset=-1", "offset=x", f"offset={10**30}"]
)
def test_a_page_that_makes_no_sense_is_refused(query: str, api: APIClient) -> None:
    answer = api.get(f"/sessions?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert list(answer.json()["error"]["fields"]) == [query.split("=", maxsplit=1)[0]]


def test_it_changes_title_and_state(api: APIClient, session: AgentSession) -> None:
    answer = api.patch(f"/sessions/{session.pk}", {"title": "New", "state": {"b": 2}}, format="json")
    assert (answer.json()["title"], answer.json()["state"]) == ("New", {"b": 2})


def test_it_extends_a_session(api: APIClient, session: AgentSession) -> None:
    before = api.get(f"/sessions/{session.pk}").json()["expires_at"]
    assert post(api, f"/sessions/{session.pk}/extend", {"extra_seconds": 60}).json()["expires_at"] > before
    assert post(api, f"/sessions/{session.pk}/extend", {"extra_seconds": -1}).status_code == 400


def test_a_deleted_session_is_gone(api: APIClient, session: AgentSession) -> None:
    assert api.delete(f"/sessions/{session.pk}").json() == {"status": "deleted"}
    assert api.get(f"/sessions/{session.pk}").status_code == 404
    assert api.get("/sessions").json()["count"] == 0


@pytest.mark.parametrize("path", ["", "/history", "/runs", "/state", "/events"])
def test_only_the_owner_reads_it(
    path: str, api: APIClient, stranger_api: APIClient, session: AgentSession, client: Any
) -> None:
    url = f"/sessions/{session.pk}{path}"
    assert api.get(url).status_code == 200
    assert api.get(f"{url}/").status_code == 200
    assert (stranger_api.get(url).status_code, stranger_api.get(url).json()["error"]["code"]) == (
        404,
        "session_not_found",
    )
    anonymous = client.get(url)
    assert (anonymous.status_code, anonymous.json()["error"]["code"]) == (401, "not_authenticated")
    assert anonymous["WWW-Authenticate"] == "Bearer"


def test_only_the_owner_changes_it(stranger_api: APIClient, session: AgentSession) -> None:
    url = f"/sessions/{session.pk}"
    assert stranger_api.patch(url, {"title": "x"}, format="json").status_code == 404
    assert stranger_api.delete(url).status_code == 404
    assert stranger_api.put(f"{url}/state", {}, format="json").status_code == 404


def test_the_list_is_the_callers_newest_first_and_searchable(api: APIClient, user: Any, other_user: Any) -> None:
    for title in ("one", "two", "three"):
        create_session(owner=user, title=title)
    create_session(owner=other_user, title="foreign")
    page = api.get("/sessions?limit=2").json()
    assert (page["count"], [info["title"] for info in page["results"]]) == (3, ["three", "two"])
    assert [info["title"] for info in api.get(page["next"]).json()["results"]] == ["one"]
    assert [info["title"] for info in api.get("/sessions?q=TW").json()["results"]] == ["two"]


def test_the_list_takes_a_constant_number_of_queries(api: APIClient, user: Any) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            api.get("/sessions?limit=100")
        # The limits are read now and then, by whatever request comes first.
        return sum("monitoring_quota" not in query["sql"] for query in captured)

    create_session(owner=user)
    few = queries()
    for _ in range(30):
        create_session(owner=user)
    assert queries() == few == 3  # the caller, the count, the page


@pytest.mark.parametrize("url", ["/nothing", "/sessions/x/y/z"])
def test_what_is_not_there_is_json_for_programs_and_a_page_for_people(url: str, client: Any) -> None:
    assert client.get(url).json()["error"]["code"] == "not_found"
    assert b"<html" in client.get(url, headers={"Accept": "text/html"}).content


def test_the_browsable_api_has_forms(client: Any, user: Any, session: AgentSession) -> None:
    client.force_login(user)
    page = client.get("/sessions", headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert b'name="initial_context"' in page.content or b'name="title"' in page.content
    for path in ("", "/history", "/runs", "/state", "/chat", "/events", "/cancel", "/extend"):
        answer = client.get(f"/sessions/{session.pk}{path}", headers={"Accept": "text/html"})
        assert answer.status_code in (200, 405), path
        assert b"</form>" in answer.content or path in ("/history", "/runs", "/events", "/state"), path

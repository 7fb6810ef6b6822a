"""A clear error with a stable code; the session lives on; the server logs no traceback."""

import socket
from typing import Any

import httpx
import pytest

from tests.site import Client, Site

pytestmark = pytest.mark.usefixtures("no_traceback")

UNKNOWN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def session(client_of_site: Client) -> str:
    return client_of_site.new_session()


def refusal(client: Client, session: str, **options: Any) -> tuple[int, str]:
    answer = client.http.post(f"/sessions/{session}/chat", **options)
    return answer.status_code, answer.json()["error"]["code"]


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"content": b'{"message":', "headers": JSON}, (400, "malformed_json")),
        ({"content": b"\xff\xfe", "headers": JSON}, (400, "malformed_json")),
        ({"content": b'["message"]', "headers": JSON}, (400, "invalid_request")),
        ({"content": b'{"message": "a\\u0000b"}', "headers": JSON}, (400, "malformed_json")),
        ({"content": b'{"message": "\\ud800"}', "headers": JSON}, (400, "malformed_json")),
        ({"content": b"hi", "headers": {"content-type": "text/plain"}}, (415, "unsupported_media_type")),
        ({"json": {}}, (400, "invalid_request")),
        ({"json": {"message": ""}}, (400, "invalid_request")),
        ({"json": {"message": " \n"}}, (400, "invalid_request")),
        ({"json": {"message": 5}}, (400, "invalid_request")),
        ({"json": {"message": ["hi"]}}, (400, "invalid_request")),
        ({"json": {"message": None}}, (400, "invalid_request")),
        ({"json": {"message": "hi", "stream": "perhaps"}}, (400, "invalid_request")),
        ({"json": {"message": "x" * 300_000}}, (413, "message_too_large")),
        ({"json": {"message": "x" * 3_000_000}}, (413, "request_too_large")),
        ({"content": b"[" * 100_000, "headers": JSON}, (400, "malformed_json")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_message_is_refused(
    options: dict[str, Any], expected: tuple[int, str], client_of_site: Client, session: str
) -> None:
    assert refusal(client_of_site, session, **options) == expected
    assert client_of_site.ask(session, "still there?")["status"] == "succeeded"


def test_the_largest_message_is_taken(client_of_site: Client, session: str) -> None:
    assert client_of_site.ask(session, "x" * 262_144)["status"] == "succeeded"


@pytest.mark.parametrize("unknown", [UNKNOWN, "nonsense", "1", "%00"])
def test_an_unknown_session_is_not_found(unknown: str, client_of_site: Client) -> None:
    assert refusal(client_of_site, unknown, json={"message": "hi"}) == (404, "session_not_found")


def test_a_foreign_session_is_not_found(session: str, stranger: Client) -> None:
    assert refusal(stranger, session, json={"message": "hi"}) == (404, "session_not_found")
    for path in ("", "/history", "/events", "/runs", "/state"):
        assert stranger.http.get(f"/sessions/{session}{path}").status_code == 404


def test_an_expired_session_is_gone_until_it_is_extended(site: Site, client_of_site: Client, session: str) -> None:
    site.manage(
        "shell", "-v", "0", "-c",
        "from sessions_app.models import AgentSession; from django.utils import timezone;"
        f"AgentSession.objects.filter(pk='{session}').update(expires_at=timezone.now())",
    )  # fmt: skip
    assert refusal(client_of_site, session, json={"message": "hi"}) == (410, "session_expired")
    assert client_of_site.http.post(f"/sessions/{session}/extend", json={"extra_seconds": 60}).status_code == 200
    assert client_of_site.ask(session, "hi")["status"] == "succeeded"


@pytest.mark.parametrize("token", ["wrong", "a b", "ä"])
def test_a_bad_token_is_refused(token: str, site: Site, session: str) -> None:
    with site.client("") as client:
        headers = {"Authorization": f"Bearer {token}".encode()}
        assert refusal(client, session, json={"message": "hi"}, headers=headers) == (401, "not_authenticated")


def test_no_token_is_refused(site: Site, session: str) -> None:
    with site.client("") as client:
        assert refusal(client, session, json={"message": "hi"}) == (401, "not_authenticated")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_wrong_method_is_refused(method: str, client_of_site: Client, session: str) -> None:
    answer = client_of_site.http.request(method, f"/sessions/{session}/chat")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_a_strange_host_is_refused(client_of_site: Client, session: str) -> None:
    headers = {"Host": "evil.example"}
    assert refusal(client_of_site, session, json={"message": "hi"}, headers=headers)[0] == 400


@pytest.mark.parametrize("path", ["/sessions", "/health", "/", "/nothing"])
def test_a_strange_host_is_refused_by_the_pages_too(path: str, client_of_site: Client) -> None:
    answer = client_of_site.http.get(path, headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("path", ["/sessions?q=%00", "/?q=%00", "/admin/sessions_app/run/?status__exact=%00"])
def test_a_nul_in_an_address_is_refused(path: str, client_of_site: Client, logged_in: httpx.Client) -> None:
    for client in (client_of_site.http, logged_in):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_json_that_is_sent_as_a_form_is_told(client_of_site: Client, session: str) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    for method, path in (("POST", "/sessions"), ("PUT", f"/sessions/{session}/state")):
        answer = client_of_site.http.request(method, path, content=b'{"agent_type": "demo", "n": 1}', headers=form)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    answer = client_of_site.http.put(f"/sessions/{session}/state", files={"a": b"1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert client_of_site.http.get(f"/sessions/{session}/state").json() == {}
    assert client_of_site.http.post("/sessions", data={"agent_type": "demo"}).status_code == 201


def test_a_broken_multipart_body_is_refused(client_of_site: Client) -> None:
    headers = {"content-type": "multipart/form-data; boundary="}
    answer = client_of_site.http.post("/sessions", content=b"--", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_body")


def test_a_state_that_is_too_large_is_refused(client_of_site: Client, session: str) -> None:
    large = {"a": "x" * 300_000}
    for method, path, body in (
        ("PUT", f"/sessions/{session}/state", large),
        ("PATCH", f"/sessions/{session}/state", large),
        ("POST", "/sessions", {"initial_context": large}),
    ):
        answer = client_of_site.http.request(method, path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "state_too_large")


def test_mistakes_have_their_fields_and_a_body_that_is_none_has_none(client_of_site: Client, session: str) -> None:
    wrong = client_of_site.http.post("/sessions", json={"ttl_seconds": "x"}).json()["error"]
    assert list(wrong["fields"]) == ["ttl_seconds"]
    for method, path in (("POST", f"/sessions/{session}/chat"), ("PUT", f"/sessions/{session}/state")):
        answer = client_of_site.http.request(method, path, content=b"null", headers=JSON)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert "fields" not in answer.json()["error"]


def test_a_login_without_its_csrf_token_may_not_write(logged_in: httpx.Client) -> None:
    answer = logged_in.post("/sessions", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf_failed")


def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_fault(site: Site, session: str) -> None:
    with site.logs_none_of("chat.sse"):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", site.port)) as connection:
                head = f"POST /sessions/{session}/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"
                connection.sendall(f"{head}Authorization: Bearer {site.token}\r\n\r\n{{".encode())
        with site.client() as client:
            assert client.ask(session, "hi")["status"] == "succeeded"


def test_a_trailing_slash_changes_nothing(client_of_site: Client, session: str) -> None:
    answer = client_of_site.http.post(f"/sessions/{session}/chat/", json={"message": "hi", "stream": False})
    assert answer.json()["status"] == "succeeded"

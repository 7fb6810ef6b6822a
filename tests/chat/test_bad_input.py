"""A clear error with a stable code; the session lives on; the server logs no traceback."""

from typing import Any

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


def test_a_trailing_slash_changes_nothing(client_of_site: Client, session: str) -> None:
    answer = client_of_site.http.post(f"/sessions/{session}/chat/", json={"message": "hi", "stream": False})
    assert answer.json()["status"] == "succeeded"

"""The WebSocket way in."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.site import Client, Site

pytestmark = pytest.mark.usefixtures("no_traceback")


@contextmanager
def open_socket(site: Site, session: str, query: str = "", **headers: str) -> Iterator[ClientConnection]:
    headers = headers or {"Authorization": f"Bearer {site.token}"}
    with connect(f"{site.ws_url}/ws/{session}{query}", additional_headers=headers, max_size=None) as socket:
        yield cast(ClientConnection, socket)


def receive(socket: ClientConnection) -> dict[str, Any]:
    return dict(json.loads(socket.recv(timeout=20)))


def receive_until(socket: ClientConnection, *types: str) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = []
    while not frames or frames[-1]["type"] not in types:
        frames.append(receive(socket))
    return frames


def send(socket: ClientConnection, **frame: Any) -> None:
    socket.send(json.dumps(frame))


def text_of(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["data"]["content"] for frame in frames if frame["type"] == "response")


def test_it_chats(site: Site, client_of_site: Client) -> None:
    with open_socket(site, client_of_site.new_session()) as socket:
        send(socket, type="chat", message="What is 3*3?", client_ref="mine")
        frames = receive_until(socket, "done")
    accepted = next(frame for frame in frames if frame["type"] == "accepted")
    assert (accepted["id"], accepted["data"]["client_ref"]) == (None, "mine")
    told = [frame for frame in frames if frame["id"]]
    assert [frame["id"] for frame in told] == [f"1-{n}" for n in range(1, len(told) + 1)]
    assert told[0]["data"]["message_id"] == accepted["data"]["message_id"]
    assert text_of(frames) == "- `3*3` = **9**"


def test_two_sockets_see_the_same(site: Site, client_of_site: Client) -> None:
    session = client_of_site.new_session("chat")
    with open_socket(site, session) as one, open_socket(site, session, "?after=0-0") as two:
        send(one, type="chat", message="[[tokens=50 delay_ms=2]]")
        mine, theirs = receive_until(one, "done"), receive_until(two, "done")
    assert text_of(mine) == text_of(theirs) == "".join(f"tok{n} " for n in range(50))


def test_it_goes_on_behind_a_cursor(site: Site, client_of_site: Client) -> None:
    session = client_of_site.new_session()
    events = client_of_site.chat(session, "Count to 20")
    with open_socket(site, session, f"?after={events[9]['id']}") as socket:
        frames = receive_until(socket, "done")
    assert [frame["id"] for frame in frames][-1] == events[-1]["id"]
    assert frames[0]["data"]["content"].startswith(events[10]["content"])


def test_it_cancels(site: Site, client_of_site: Client) -> None:
    with open_socket(site, client_of_site.new_session("chat")) as socket:
        send(socket, type="chat", message="[[tokens=5000 delay_ms=5]]")
        receive_until(socket, "response")
        send(socket, type="cancel")
        assert receive_until(socket, "cancelled", "done")[-1]["type"] == "cancelled"
        send(socket, type="cancel")
        assert receive_until(socket, "status", "error")[-1]["type"] == "status"  # repeated, harmless


def test_it_answers_pings(site: Site, client_of_site: Client) -> None:
    with open_socket(site, client_of_site.new_session()) as socket:
        send(socket, type="ping")
        assert receive(socket) == {"type": "pong", "id": None, "data": {}}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"binary", "invalid_request"),
        ("not json", "invalid_request"),
        ("[]", "invalid_request"),
        ("{}", "invalid_request"),
        ('{"type": "dance"}', "invalid_request"),
        ('{"type": ["chat"]}', "invalid_request"),
        ('{"type": "chat"}', "invalid_request"),
        ('{"type": "chat", "message": 5}', "invalid_request"),
        ('{"type": "chat", "message": ""}', "invalid_request"),
        ('{"type": "chat", "message": "a\\u0000"}', "invalid_request"),
        ('{"type": "cancel"}', "no_active_run"),
        (json.dumps({"type": "chat", "message": "x" * 300_000}), "message_too_large"),
        ("x" * 3_000_000, "message_too_large"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_frame_is_answered_and_the_connection_lives_on(
    frame: str | bytes, code: str, site: Site, client_of_site: Client
) -> None:
    with open_socket(site, client_of_site.new_session()) as socket:
        socket.send(frame)
        complaint = receive(socket)
        assert (complaint["type"], complaint["id"], complaint["data"]["code"]) == ("error", None, code)
        send(socket, type="chat", message="hello")
        assert receive_until(socket, "done")[-1]["data"]["status"] == "succeeded"


def refusal(site: Site, session: str, query: str = "", **headers: str) -> tuple[str, int]:
    with open_socket(site, session, query, **headers) as socket:
        code = receive(socket)["data"]["code"]
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        return code, closed.value.rcvd.code


def test_who_may_not_is_told_why(site: Site, client_of_site: Client, stranger: Client) -> None:
    session = client_of_site.new_session()
    foreign = str(stranger.http.headers["Authorization"])
    assert refusal(site, session, Authorization="Bearer wrong") == ("not_authenticated", 4401)
    assert refusal(site, session, Origin=site.url) == ("not_authenticated", 4401)
    assert refusal(site, session, Authorization=foreign) == ("session_not_found", 4404)
    assert refusal(site, "nonsense") == ("session_not_found", 4404)
    assert refusal(site, session, "?after=x") == ("invalid_cursor", 4400)
    assert refusal(site, session, f"?token={site.token}", Origin=site.url) == ("not_authenticated", 4401)


def test_a_ticket_opens_it(site: Site, client_of_site: Client) -> None:
    ticket = client_of_site.http.post("/tickets").json()["ticket"]
    with open_socket(site, client_of_site.new_session(), f"?token={ticket}", Origin="https://x.example") as socket:
        send(socket, type="ping")
        assert receive(socket)["type"] == "pong"


def test_a_login_cookie_counts_only_from_the_sites_own_pages(site: Site, client_of_site: Client) -> None:
    session = client_of_site.new_session()
    with httpx.Client(base_url=site.url) as browser:
        browser.get("/login/")
        form = {
            "username": "admin",
            "password": site.credentials["password"],
            "csrfmiddlewaretoken": browser.cookies["csrftoken"],
        }
        browser.post("/login/", data=form)
        cookie = f"sessionid={browser.cookies['sessionid']}"
    assert refusal(site, session, Cookie=cookie, Origin="https://evil.example") == ("cross_origin", 4403)
    with open_socket(site, session, Cookie=cookie, Origin=site.url) as socket:
        send(socket, type="ping")
        assert receive(socket)["type"] == "pong"


@pytest.mark.parametrize("path", ["", "nothing", "ws", "ws/", "ws/a/b", "sessions"])
def test_a_path_that_is_none_is_told(site: Site, path: str) -> None:
    with connect(f"{site.ws_url}/{path}") as socket:
        assert receive(cast(ClientConnection, socket))["data"]["code"] == "not_found"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4404


def test_who_leaves_at_once_is_no_fault(site: Site, client_of_site: Client) -> None:
    session = client_of_site.new_session("chat")
    with site.logs_none_of("chat.consumers", "Traceback", "never retrieved"):
        for number in range(12):
            with open_socket(site, session) as socket:
                send(socket, type="chat", message=f"{number} [[tokens=100 delay_ms=1]]", on_busy="interrupt")
                for _ in range(number):
                    receive(socket)
                if number % 2:
                    socket.socket.close()  # as a client that crashes
        client_of_site.ask(session, "[[tokens=1]]")

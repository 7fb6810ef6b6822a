"""Daphne, the other server of the same application."""

from collections.abc import Iterator

import httpx
import pytest

from tests.chat.test_websocket import open_socket, receive, receive_until, send, text_of
from tests.site import Site, running_site


@pytest.fixture(scope="module")
def daphne() -> Iterator[Site]:
    with running_site(ASGI_SERVER="daphne") as site:
        yield site
        assert site.stop() == 0


def test_it_streams(daphne: Site) -> None:
    with daphne.client() as client:
        assert client.http.get("/health").headers["server"].lower() == "daphne"
        assert client.chat(client.new_session(), "What is 4*4?")[-1]["type"] == "done"


def test_the_chat_pages_socket_opens_by_the_login_cookie(daphne: Site) -> None:
    with httpx.Client(base_url=daphne.url, follow_redirects=True) as browser, daphne.client() as client:
        browser.get(daphne.login_link())
        cookie = f"sessionid={browser.cookies['sessionid']}"
        with open_socket(daphne, client.new_session(), Cookie=cookie, Origin=daphne.url) as socket:
            send(socket, type="chat", message="What is 4*4?")
            assert text_of(receive_until(socket, "done")) == "- `4*4` = **16**"


def test_a_frame_that_is_too_large_is_answered(daphne: Site) -> None:
    with daphne.client() as client, open_socket(daphne, client.new_session()) as socket:
        send(socket, type="chat", message="x" * 3_000_000)
        assert receive(socket)["data"]["code"] == "message_too_large"
        send(socket, type="ping")
        assert receive(socket)["type"] == "pong"


def test_who_leaves_at_once_is_no_fault(daphne: Site) -> None:
    with daphne.client() as client, daphne.logs_none_of("Traceback", "chat.consumers"):
        session = client.new_session()
        for number in range(6):
            with open_socket(daphne, session) as socket:
                send(socket, type="chat", message="Count to 300", on_busy="interrupt")
                if number % 2:
                    socket.socket.close()
        client.ask(session, "hi")

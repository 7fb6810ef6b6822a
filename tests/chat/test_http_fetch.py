"""The tool that reads web pages reaches the public internet only, however one tries."""

import asyncio
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from chat.agents.tools import http_fetch
from chat.agents.tools.base import ToolError
from chat.agents.tools.http_fetch import ForbiddenAddressError, check_address


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        kind, body = {
            "/page": ("text/html; charset=utf-8", "Grüße".encode()),
            "/image": ("image/png", b"\x89PNG"),
            "/huge": ("text/plain", b"x" * (2 * http_fetch.MAX_BYTES)),
        }[self.path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # the reader has had enough

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def url(settings: Any) -> Iterator[str]:
    """Of a server on loopback, which the tool may reach: 127.0.0.1 alone, not 127.0.0.2."""
    settings.HTTP_FETCH_NETWORKS = ["127.0.0.1/32"]
    http_fetch._allowed_networks.cache_clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    http_fetch._allowed_networks.cache_clear()


def fetch(url: str) -> dict[str, Any]:
    return dict(asyncio.run(http_fetch.http_fetch.function(None, url=url)))


def refusal(url: str) -> str:
    with pytest.raises(ToolError) as caught:
        fetch(url)
    return str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "ff02::1",
        "64:ff9b:1::1",
        "64:ff9b::7f00:1",
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(ForbiddenAddressError):
        check_address(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_ones_are_not(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
def test_no_spelling_of_loopback_gets_through(url: str) -> None:
    assert "Not allowed" in refusal(url) or "cannot be re" in refusal(url)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/", "gopher://x/", "http://", "/etc/passwd"])
def test_only_the_web_is_read(url: str) -> None:
    assert refusal(url).startswith("Only http")


def test_a_page_is_read(url: str) -> None:
    page = fetch(f"{url}/page")
    assert (page["status"], page["text"], page["is_complete"]) == (200, "Grüße", True)


def test_what_is_no_text_or_too_long_is_not_read_to_its_end(url: str) -> None:
    assert "image/png, not a text" in refusal(f"{url}/image")
    page = fetch(f"{url}/huge")
    assert (len(page["text"]), page["is_complete"]) == (http_fetch.MAX_BYTES, False)


def test_redirects_go_through_the_same_gate(url: str) -> None:
    assert fetch(f"{url}/to//page")["text"] == "Grüße"
    assert "Not allowed" in refusal(f"{url}/to/http://127.0.0.2/page")
    assert "Not allowed" in refusal(f"{url}/to/http://169.254.169.254/")
    assert refusal(f"{url}/to/file:///etc/passwd").startswith("Only http")
    assert "redirects" in refusal(f"{url}/to/" * 20 + "/page") or "cannot" in refusal(f"{url}/to/" * 20 + "/page")

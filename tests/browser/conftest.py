"""Headless Chromium, Debian's own: nothing is downloaded."""

import os
import shutil
import warnings
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.site import Site

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="package")  # not longer: its event loop would stand in the way of other tests' own
def browser() -> Iterator[Browser]:
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if executable is None:
        missing = "There is no Chromium, so the chat page is NOT tested. Install the package chromium, or set CHROMIUM."
        if os.environ.get("CI"):
            pytest.fail(missing)
        warnings.warn(missing, stacklevel=1)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, site: Site, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of a logged-in user; whatever it complains of in its console fails the test, but what the test's mark
    `complains` names."""
    marks = list(request.node.iter_markers("complains"))
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    complaints: list[str] = []

    def complain(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", complain)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{site.url}/login/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", site.credentials["password"])
    page.click("button[type=submit]")
    page.goto(f"{site.url}/new/")
    yield page
    context.close()
    expected = ["net::ERR_INTERNET_DISCONNECTED", "WebSocket connection to"]  # of a connection that a test broke
    expected += [text for mark in marks for text in mark.args]
    assert not [text for text in complaints if not any(known in text for known in expected)]

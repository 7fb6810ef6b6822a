"""What a person does in the chat page, and what the tests read off it."""

import json
import re
from typing import Any

from playwright.sync_api import Page, expect

# Loaded before the page's own scripts: lets a test break the connection as a network would.
BREAKABLE = """
  const Real = window.WebSocket;
  window.sockets = [];
  window.WebSocket = class extends Real {
    constructor(...a) { super(...a); window.sockets.push(this); }
  };
"""


def send(page: Page, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def wait_for_answer(page: Page) -> None:
    expect(page.locator("#announce")).to_have_text(re.compile("The answer"), timeout=20_000)
    expect(page.locator("#stop")).to_be_hidden()
    page.evaluate("document.getElementById('announce').textContent = ''")


def start(page: Page, text: str, agent: str = "demo") -> None:
    page.select_option("#agent", agent)
    send(page, text)
    page.wait_for_url("**/c/**")


def send_frame(page: Page, **frame: Any) -> None:
    """What another client would send; needs BREAKABLE."""
    page.evaluate("frame => window.sockets.at(-1).send(frame)", json.dumps(frame))


def receive(page: Page, type: str, id: str | None = None, **data: Any) -> None:
    """An event that the server would send; needs BREAKABLE."""
    frame = json.dumps({"type": type, "id": id, "data": data})
    page.evaluate("data => window.sockets.at(-1).dispatchEvent(new MessageEvent('message', { data }))", frame)


def roles(page: Page) -> list[str]:
    return list(page.locator(".message").evaluate_all("rows => rows.map((row) => row.className.split(' ')[1])"))


def shown(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".message .text:not([hidden])").all_inner_texts()]

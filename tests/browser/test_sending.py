"""A message whose connection breaks while it is sent: it is sent again, and is one message."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chatting import BREAKABLE, receive, roles, send, shown, start, wait_for_answer
from tests.site import Client

# On top of BREAKABLE: `isMute` loses what the page sends, `isDeaf` what it would be told, whose types are
# `missed`; `sent` are the chat frames, `confirmed` how many of them the page has seen accepted.
LOSSY = (
    BREAKABLE
    + """
  window.sent = [];
  window.missed = [];
  window.confirmed = 0;
  window.WebSocket = class extends window.WebSocket {
    constructor(...a) {
      super(...a);
      this.addEventListener("message", (event) => {
        const { type } = JSON.parse(event.data);
        if (!window.isDeaf) return (window.confirmed += type === "accepted");
        window.missed.push(type);
        event.stopImmediatePropagation();
      });
    }
    send(data) {
      const frame = JSON.parse(data);
      if (frame.type === "chat") window.sent.push(frame);
      if (!window.isMute) super.send(data);
    }
  };
"""
)


@pytest.fixture(autouse=True)
def lossy(page: Page) -> None:
    page.add_init_script(LOSSY)


def begin(page: Page) -> str:
    """A conversation with one turn; returns its id."""
    start(page, "[[tokens=2]]", agent="chat")
    wait_for_answer(page)
    return page.url.rstrip("/").rsplit("/", 1)[-1]


def break_connection(page: Page) -> None:
    page.evaluate("window.isMute = window.isDeaf = false; window.sockets.at(-1).close()")


def wait_until_missed(page: Page, type: str) -> None:
    page.wait_for_function("type => ['accepted', type].every((each) => window.missed.includes(each))", arg=type)


def messages_of(client: Client, session: str) -> list[str]:
    messages = client.http.get(f"/sessions/{session}/history").json()["messages"]
    return [message["content"] for message in messages if message["role"] == "user"]


def test_messages_that_were_lost_are_sent_again_in_order(page: Page, client_of_site: Client) -> None:
    session = begin(page)
    page.evaluate("window.isMute = true")
    asked = ["one [[tokens=3]]", "two [[tokens=4]]"]
    for text in asked:
        send(page, text)
    expect(page.locator(".note:visible")).to_have_text(["Sending …", "Sending …"])
    break_connection(page)
    expect(page.locator(".message.assistant").last.locator(".text")).to_have_text("tok0 tok1 tok2 tok3", timeout=20_000)
    assert shown(page)[2:] == [asked[0], "tok0 tok1 tok2", asked[1], "tok0 tok1 tok2 tok3"]
    expect(page.locator(".note:visible")).to_have_count(0)
    expect(page.locator("#stop")).to_be_hidden()
    assert messages_of(client_of_site, session)[1:] == asked
    page.reload()
    assert roles(page) == ["user", "assistant"] * 3


@pytest.mark.parametrize("is_reloaded", [False, True], ids=["", "reloaded"])
@pytest.mark.parametrize("length", [3, 300], ids=["ended", "running"])
def test_a_message_that_arrived_unconfirmed_is_not_begun_again(
    page: Page, client_of_site: Client, length: int, is_reloaded: bool
) -> None:
    session = begin(page)
    page.evaluate("window.isDeaf = true")
    send(page, f"[[tokens={length} delay_ms=5]]")
    wait_until_missed(page, "done" if length == 3 else "response")
    expect(page.locator(".note:visible")).to_have_text("Sending …")
    known = 0 if is_reloaded else page.evaluate("window.confirmed")
    if is_reloaded:
        page.reload()
    else:
        break_connection(page)
    page.wait_for_function("known => window.confirmed > known", arg=known)
    expect(page.locator(".message.assistant").last.locator(".text")).to_have_text(
        " ".join(f"tok{n}" for n in range(length)), timeout=20_000
    )
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator(".message")).to_have_count(4)
    expect(page.locator(".note:visible")).to_have_count(0)
    assert roles(page) == ["user", "assistant", "user", "assistant"]
    assert len(messages_of(client_of_site, session)) == 2


def test_a_lost_message_outlives_a_reload(page: Page, client_of_site: Client) -> None:
    session = begin(page)
    page.evaluate("window.isMute = true")
    send(page, "[[tokens=3]]")
    page.reload()
    expect(page.locator(".message.assistant").last.locator(".text")).to_have_text("tok0 tok1 tok2", timeout=20_000)
    assert messages_of(client_of_site, session) == ["[[tokens=2]]", "[[tokens=3]]"]
    page.reload()
    expect(page.locator("#state")).to_have_text("live")
    assert page.evaluate("window.sent") == []


def test_a_lost_message_that_is_refused_is_offered_again(page: Page) -> None:
    begin(page)
    page.evaluate("window.isMute = true")
    text = "x" * 270_000
    send(page, text)
    page.fill("#message", "and a draft")
    break_connection(page)
    expect(page.locator("#alert")).to_have_text(re.compile("at most"))
    expect(page.locator("#message")).to_have_value(f"and a draft\n\n{text}")
    assert roles(page) == ["user", "assistant"]


def test_an_offered_message_that_had_arrived_is_not_begun_again(page: Page, client_of_site: Client) -> None:
    session = begin(page)
    page.evaluate("window.isDeaf = true")
    send(page, "[[tokens=3]]")
    wait_until_missed(page, "done")
    page.evaluate("window.isDeaf = false")
    receive(page, "error", code="unavailable", message="Try again.")
    expect(page.locator("#message")).to_have_value("[[tokens=3]]")
    page.press("#message", "Enter")
    page.wait_for_function("() => window.confirmed > 1")  # the first is the first turn's
    break_connection(page)
    expect(page.locator(".message.assistant").last.locator(".text")).to_have_text("tok0 tok1 tok2")
    expect(page.locator(".message")).to_have_count(4)
    assert len(messages_of(client_of_site, session)) == 2


def test_each_message_has_a_key_also_without_a_secure_context(page: Page) -> None:
    page.add_init_script("Crypto.prototype.randomUUID = undefined")  # as on http://192.168.1.7
    page.goto(page.url)
    begin(page)
    send(page, "[[tokens=2]]")
    wait_for_answer(page)
    first, second = (frame["idempotency_key"] for frame in page.evaluate("window.sent"))
    assert first != second
    assert re.fullmatch("[0-9a-f]{32}", second)


def test_what_was_said_of_a_lost_connection_goes_with_it(page: Page) -> None:
    begin(page)
    page.context.set_offline(True)
    page.evaluate("window.sockets.at(-1).close()")
    expect(page.locator("#state")).not_to_have_text("live")
    send(page, "[[tokens=3]]")
    expect(page.locator("#alert")).to_have_text(re.compile("no connection now"))
    page.context.set_offline(False)
    expect(page.locator("#state")).to_have_text("live", timeout=20_000)
    expect(page.locator("#alert")).to_be_hidden()
    expect(page.locator("#message")).to_have_value("[[tokens=3]]")

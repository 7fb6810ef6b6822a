"""What the chat page shows of the context: the meter, pinned messages, summaries and the way back."""

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.chatting import roles, send, start, wait_for_answer
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, Site, running_site

LONG = "There is a lot to say of the garden, of its beds and its hedges. " * 8
WAIT_SECONDS = 30.0
FEW = 5  # further turns until the context is full
_MAKE = """
from sessions_app.models import AgentType
AgentType.objects.create(name="small", title="Small", runtime="chat", system_prompt="Be brief.")
"""

_FOLLOW = """
from sessions_app.models import AgentSession, Message, Run
session = AgentSession.objects.get(pk="SESSION")
for turn in range(session.next_turn, session.next_turn + 25):
    run = Run.objects.create(session=session, turn=turn, status="succeeded")
    for position, role in enumerate(("user", "assistant")):
        Message.objects.create(session=session, run=run, turn=turn, position=position, role=role, content="short")
AgentSession.objects.filter(pk=session.pk).update(next_turn=session.next_turn + 25)
"""


@pytest.fixture(scope="module")
def site(running_fake: FakeOpenAIProcess) -> Iterator[Site]:
    """A site whose conversations outgrow their context after a few turns."""
    env = {
        **running_fake.site_env,
        "EMBEDDING_MODEL": "embedder",
        "MODEL_CONTEXT_TOKENS": "2400",
        "MODEL_RESERVE_TOKENS": "400",
    }
    with running_site(**env) as site:
        site.manage("shell", "-v", "0", "-c", _MAKE)
        yield site


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    with site.client() as client:
        yield client


def open_session(page: Page, site: Site, session: str) -> None:
    page.goto(f"{site.url}/c/{session}/")
    expect(page.locator("#state")).to_have_text("live")


def new_long(client: Client) -> str:
    """A conversation that is nearly full; its oldest turns have been summarised in the background."""
    session = client.new_session("small")
    client.chat(session, "My ship is called Aurora and lies in Trieste.")
    for number in range(6):
        client.chat(session, f"Part {number}. {LONG}")
    deadline = time.monotonic() + WAIT_SECONDS
    while not client.http.get(f"/sessions/{session}/summaries").json():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return session


def new_told(client: Client) -> str:
    """One that is full: a summary stands in the prompt."""
    session = new_long(client)
    for number in range(FEW):
        if any(event["type"] == "summary" for event in client.chat(session, f"More {number}. {LONG}")):
            return session
    raise AssertionError("no summary was told")


@pytest.fixture(scope="module")
def told(site: Site) -> str:
    """For tests that only look at it."""
    with site.client() as client:
        return new_told(client)


def meter(page: Page) -> Locator:
    return page.get_by_role("button", name="Context")


def used(page: Page) -> int:
    found = re.fullmatch(r"Context (\d+)%", meter(page).inner_text())
    assert found, meter(page).inner_text()
    return int(found[1])


def open_dialog(page: Page) -> Locator:
    meter(page).click()
    dialog = page.get_by_role("dialog", name="What the agent reads")
    expect(dialog).to_be_visible()
    return dialog


def close_dialog(dialog: Locator) -> None:
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


def part(dialog: Locator, name: str) -> Locator:
    return dialog.locator(".context-part", has=dialog.page.locator(".part-name", has_text=name))


def first_message(page: Page) -> Locator:
    return page.locator(".message.user").first


def test_the_meter_grows_with_the_conversation(page: Page) -> None:
    start(page, "Hello", agent="small")
    wait_for_answer(page)
    expect(meter(page)).to_have_text(re.compile(r"Context [1-9]%"))
    before = used(page)
    send(page, LONG)
    wait_for_answer(page)
    expect(meter(page)).not_to_have_text(f"Context {before}%")
    assert before < used(page) < 50


def test_it_says_what_the_agent_would_read_and_why(page: Page, site: Site, told: str) -> None:
    open_session(page, site, told)
    page.fill("#message", "What is the name of my ship?")
    dialog = open_dialog(page)
    expect(dialog.locator(".context-sum")).to_have_text(
        re.compile(r"[\d,]+ of 2,000 tokens, by the strategy combined\.")
    )
    names = dialog.locator(".part-name").all_inner_texts()
    assert names == ["System prompt", "Summaries", "Newest messages", "Excerpts", "Your message"]
    assert all(int(tokens.replace(",", "")) > 0 for tokens in dialog.locator(".part-tokens").all_inner_texts())
    excerpts = part(dialog, "Excerpts")
    excerpts.locator("summary").click()
    ship = excerpts.locator("li", has_text="My ship is called Aurora").filter(has_text="user ·")
    expect(ship.locator(".item-about")).to_have_text(
        re.compile(r"user · \d{4}-\d\d-\d\d · \d+ tokens · words #\d+, meaning #\d+")
    )
    expect(dialog.locator(".context-left")).to_have_text(re.compile(r"\d+ messages are left out \([\d,]+ tokens\)\."))
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(meter(page)).to_be_focused()
    expect(page.locator("#message")).to_have_value("What is the name of my ship?")


def test_a_message_is_pinned_and_let_go(page: Page, site: Site, client: Client) -> None:
    session = client.new_session("small")
    client.chat(session, "Always answer in Slovene.")
    open_session(page, site, session)
    row = first_message(page)
    row.hover()
    pin = row.get_by_role("button", name="Pin")
    expect(pin).to_have_attribute("aria-pressed", "false")
    pin.click()
    expect(pin).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(page.locator("#state")).to_have_text("live")
    expect(pin).to_have_attribute("aria-pressed", "true")
    expect(pin).to_be_visible()
    for number in range(8):
        client.chat(session, f"Part {number}. {LONG}")
    dialog = open_dialog(page)
    pinned = part(dialog, "Pinned messages")
    pinned.locator("summary").click()
    expect(pinned.locator("li .item-text")).to_have_text("Always answer in Slovene.")
    close_dialog(dialog)
    pin.focus()
    page.keyboard.press("Enter")
    expect(pin).to_have_attribute("aria-pressed", "false")
    expect(pin).to_be_focused()
    dialog = open_dialog(page)
    expect(part(dialog, "Pinned messages")).to_have_count(0)


@pytest.mark.complains("status of 409")
def test_a_message_that_is_too_large_to_be_pinned_says_so(page: Page, site: Site, client: Client) -> None:
    session = client.new_session("small")
    client.chat(session, "long " * 1_500)
    open_session(page, site, session)
    first_message(page).hover()
    pin = first_message(page).get_by_role("button", name="Pin")
    pin.click()
    expect(page.locator("#alert")).to_have_text(re.compile(r"The pinned messages would take \d+ tokens"))
    expect(pin).to_have_attribute("aria-pressed", "false")


def test_a_summary_shows_where_it_began_and_stays_there(page: Page, site: Site, client: Client) -> None:
    open_session(page, site, new_long(client))
    expect(page.locator(".summary-row")).to_have_count(0)
    for number in range(FEW):
        if not page.locator(".summary-row").count():
            send(page, f"More {number}. {LONG}")
            wait_for_answer(page)
    row = page.locator(".summary-row").first
    expect(row).to_contain_text(re.compile(r"The agent reads a summary of turns 1 to \d+ since here\."))
    row.locator("summary").click()
    expect(row.locator(".summary-text")).to_contain_text("garden")
    expect(row.locator(".sizes")).to_have_text(re.compile(r"\d+ → \d+ tokens\."))
    assert "Aurora" in first_message(page).inner_text(), "the messages stay"
    rows = page.locator("#messages > li")
    before = rows.evaluate_all("rows => rows.map((row) => row.dataset.summary ?? '')")
    page.reload()
    expect(page.locator("#state")).to_have_text("live")
    assert rows.evaluate_all("rows => rows.map((row) => row.dataset.summary ?? '')") == before


def test_a_summary_stands_among_earlier_messages_too(page: Page, site: Site, client: Client) -> None:
    session = new_told(client)
    rows = page.locator("#messages > li")
    all_rows = "rows => rows.map((row) => row.dataset.summary ? 'summary' : row.dataset.message)"
    open_session(page, site, session)
    before = rows.evaluate_all(all_rows)
    assert "summary" in before
    site.manage("shell", "-v", "0", "-c", _FOLLOW.replace("SESSION", session))
    page.reload()
    expect(page.locator("#state")).to_have_text("live")
    expect(page.locator(".summary-row")).to_have_count(0)
    page.get_by_role("button", name="Load earlier messages").click()
    expect(page.locator(".summary-row")).not_to_have_count(0)
    assert rows.evaluate_all(all_rows)[: len(before)] == before
    page.locator(".summary-row summary").first.click()
    page.locator(".summary-row").first.get_by_role("button", name="Revert").click()
    expect(page.locator(".summary-row").first).to_have_class(re.compile("reverted"))


def test_a_summary_is_reverted_and_restored_in_the_conversation(page: Page, site: Site, client: Client) -> None:
    open_session(page, site, new_told(client))
    row = page.locator(".summary-row").first
    row.locator("summary").click()
    row.get_by_role("button", name="Revert").click()
    expect(row.locator("summary")).to_have_text(re.compile(r"turns 1 to \d+ was reverted"), use_inner_text=True)
    expect(row.get_by_role("button", name="Restore")).to_be_focused()
    page.reload()
    expect(page.locator("#state")).to_have_text("live")
    expect(row.locator("summary")).to_have_text(re.compile(r"turns 1 to \d+ was reverted"), use_inner_text=True)
    row.locator("summary").click()
    row.get_by_role("button", name="Restore").click()
    expect(row.locator("summary")).to_have_text(re.compile("The agent reads a summary"), use_inner_text=True)
    expect(row.get_by_role("button", name="Revert")).to_be_focused()


def test_a_summary_is_reverted_in_the_dialog(page: Page, site: Site, client: Client) -> None:
    open_session(page, site, new_told(client))
    dialog = open_dialog(page)
    summaries = part(dialog, "Summaries")
    summaries.locator("summary").click()
    about = summaries.locator("li .item-about").first.inner_text()
    assert re.fullmatch(r"turns 1–\d+, [\d,]+ → [\d,]+ tokens", about)
    summaries.get_by_role("button", name="Revert").first.click()
    expect(dialog.locator(".item-about", has_text=about)).to_have_count(0)
    expect(dialog).to_be_visible()
    close_dialog(dialog)
    expect(page.locator(".summary-row.reverted")).not_to_have_count(0)
    send(page, "Go on")
    wait_for_answer(page)
    dialog = open_dialog(page)
    expect(dialog.locator(".item-about", has_text=about)).to_have_count(0)


def test_a_fork_has_no_summaries_yet(page: Page, site: Site, client: Client, told: str) -> None:
    fork = client.http.post(f"/sessions/{told}/fork", json={}).json()["session_id"]
    open_session(page, site, fork)
    assert len(roles(page)) >= 16
    expect(page.locator(".summary-row")).to_have_count(0)


def test_it_fits_a_phone(page: Page, site: Site, told: str) -> None:
    page.set_viewport_size({"width": 390, "height": 760})
    open_session(page, site, told)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    expect(meter(page)).to_be_in_viewport()
    page.locator(".summary-row summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    dialog = open_dialog(page)
    for summary in dialog.locator(".context-part > summary").all():
        summary.click()
    box = dialog.bounding_box()
    assert box
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["height"] <= 760
    assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    close_dialog(dialog)


def test_everything_of_it_has_a_name_for_a_screen_reader(page: Page, site: Site, told: str) -> None:
    open_session(page, site, told)
    dialog = open_dialog(page)
    for summary in dialog.locator(".context-part > summary").all():
        summary.click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll(':is(dialog[open], .summary-row) :is(button, summary)')]
             .filter((e) => e.checkVisibility())
             .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.title))
             .map((e) => e.outerHTML)"""
    )
    assert nameless == []

"""A budget that is used up, as its owner meets it in the chat page."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chatting import shown, start
from tests.site import Site

_LIMIT = """
from monitoring.models import Quota
from sessions_app.models import AgentSession
session = AgentSession.objects.latest("created_at")
Quota.objects.create(name="{name}", scope="session", session=session, measure="tokens", period="total", limit=50,
    action="pause", owner_limit={owner_limit})
"""


def meet_the_limit(page: Page, site: Site, name: str, owner_limit: str) -> None:
    start(page, "Count to 3")
    expect(page.locator("#announce")).to_have_text(re.compile("The answer"), timeout=20_000)
    site.manage("shell", "-v", "0", "-c", _LIMIT.format(name=name, owner_limit=owner_limit))
    page.fill("#message", "What is 12*7?")
    page.press("#message", "Enter")
    expect(page.locator(".budget-row .question")).to_contain_text(f"the budget {name} has ")


@pytest.mark.complains("status of 400")
def test_the_owner_raises_a_budget_and_the_answer_goes_on(page: Page, site: Site) -> None:
    meet_the_limit(page, site, "raisable", "100000")
    page.reload()
    row = page.locator(".budget-row")
    expect(row.locator(".question")).to_contain_text("the budget raisable has ")
    row.locator(".budget-amount").fill("1000000")
    row.get_by_role("button", name="Raise").click()
    expect(page.locator("#alert")).to_contain_text("can be raised to 100000 at most")
    row.locator(".budget-amount").fill("50000")
    row.get_by_role("button", name="Raise").click()
    expect(row).to_have_count(0)
    expect(page.locator(".message.assistant .text").last).to_contain_text("84")
    expect(page.locator("#stop")).to_be_hidden()
    assert shown(page)[-1]


def test_what_only_an_operator_can_raise_says_so(page: Page, site: Site) -> None:
    meet_the_limit(page, site, "fixed", "None")
    expect(page.locator(".budget-row .budget-wait")).to_be_visible()
    expect(page.locator(".budget-row button")).to_be_hidden()
    page.click("#stop")
    expect(page.locator(".budget-row")).to_have_count(0)
    expect(page.locator(".note:visible").last).to_contain_text("Stopped")

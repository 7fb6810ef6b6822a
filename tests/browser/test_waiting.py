"""A message that has to wait for a free slot, as its author meets it in the chat page."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chatting import shown, start, wait_for_answer
from tests.site import Client, Site

_MAKE = """
from monitoring.models import Quota
from sessions_app.models import AgentType
narrow, _ = AgentType.objects.get_or_create(name="narrow", defaults={"title": "Narrow", "runtime": "chat"})
Quota.objects.get_or_create(
    name="narrow", scope="agent_type", agent_type=narrow, measure="concurrent_runs", period="", limit=1)
elsewhere = {"title": "Elsewhere", "runtime": "demo", "required_capabilities": ["nowhere"]}
AgentType.objects.get_or_create(name="elsewhere", defaults=elsewhere)
"""


@pytest.fixture(scope="module", autouse=True)
def agents(site: Site) -> None:
    site.manage("shell", "-v", "0", "-c", _MAKE)


@pytest.mark.parametrize("is_reloaded", [False, True], ids=["", "reloaded"])
def test_the_place_is_shown_until_it_begins(page: Page, site: Site, client_of_site: Client, is_reloaded: bool) -> None:
    busy = client_of_site.new_session("narrow")
    asked = {"message": "[[tokens=9000 delay_ms=10]]"}
    with client_of_site.stream("POST", f"/sessions/{busy}/chat", json=asked) as events, site.client() as other:
        assert next(events)["type"] == "message"
        start(page, "[[tokens=3]]", agent="narrow")
        note = page.locator(".message.user .note")
        expect(note).to_have_text("Waiting for a free slot, position 1")
        if is_reloaded:
            page.reload()
            expect(note).to_have_text("Waiting for a free slot, position 1")
        assert other.http.post(f"/sessions/{busy}/cancel").status_code in (200, 202)
        wait_for_answer(page)
    expect(note).to_be_hidden()
    assert shown(page)[-1] == "tok0 tok1 tok2"


def test_what_no_worker_can_do_says_so_and_can_be_stopped(page: Page) -> None:
    start(page, "Count to 3", agent="elsewhere")
    expect(page.locator(".message.user .note")).to_have_text("Waiting for a worker that can do this")
    page.click("#stop")
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator(".note:visible").last).to_contain_text("Stopped")

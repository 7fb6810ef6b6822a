"""What a person can do with the messages: settle a tool call, try an answer again, fork the conversation."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.chatting import roles, send, shown, start, wait_for_answer
from tests.site import Client, Site


@pytest.mark.parametrize("is_reloaded", [False, True])
def test_a_stopped_answer_can_be_tried_again(page: Page, is_reloaded: bool) -> None:
    start(page, "[[tokens=400 delay_ms=5]]", agent="chat")
    expect(page.locator(".message.assistant .text")).to_contain_text("tok10")
    page.click("#stop")
    expect(page.locator(".retry:visible")).to_have_count(1)
    if is_reloaded:
        page.reload()
        expect(page.locator("#state")).to_have_text("live")
        expect(page.locator(".note:visible")).to_have_text("Stopped before its end.")
    page.click(".retry:visible")
    expect(page.locator(".note:visible")).to_have_count(0)
    expect(page.locator("#stop")).to_be_visible()
    wait_for_answer(page)
    assert roles(page) == ["user", "assistant"]
    assert shown(page)[-1].split() == [f"tok{n}" for n in range(400)]
    expect(page.locator(".retry:visible")).to_have_count(0)
    expect(page.locator("#alert")).to_be_hidden()


def test_a_failed_answer_says_so_after_a_reload_and_fails_again(page: Page) -> None:
    start(page, "[[status=500]]", agent="chat")
    expect(page.locator(".note.failure")).to_contain_text("answered with status 500")
    page.reload()
    expect(page.locator("#state")).to_have_text("live")
    expect(page.locator(".note.failure")).to_contain_text("answered with status 500")
    run = page.locator(".message.user").get_attribute("data-run")
    page.click(".retry:visible")
    expect(page.locator(f".message.user:not([data-run='{run}'])")).to_have_count(1)
    expect(page.locator(".note.failure")).to_contain_text("answered with status 500")
    assert roles(page) == ["user", "assistant"]
    expect(page.locator("#alert")).to_be_hidden()


def test_a_conversation_is_forked_at_a_message(page: Page) -> None:
    start(page, "one")
    wait_for_answer(page)
    send(page, "two")
    wait_for_answer(page)
    page.reload()
    original = page.url
    row = page.locator(".message.assistant").first
    row.hover()
    row.get_by_role("button", name="Fork").click()
    page.wait_for_url(lambda url: "/c/" in url and url != original)
    assert shown(page)[0] == "one"
    assert roles(page) == ["user", "assistant"]
    send(page, "three")
    wait_for_answer(page)
    assert roles(page) == ["user", "assistant", "user", "assistant"]


# A run whose worker was lost while a tool of it was at work: it waits for a person.
PARKED = """
from django.utils import timezone
from sessions_app.models import AgentSession, Message, Run, ToolCall
session = AgentSession.objects.get(pk="{session_id}")
now = timezone.now()
run = Run.objects.create(session=session, turn=1, status="awaiting_approval", attempt=1, started_at=now)
Message.objects.create(session=session, run=run, turn=1, position=0, role="user", content="What is 6*7?")
calls = [{{"id": "call_1", "name": "calculator", "arguments": {{"expression": "6*7"}}}}]
Message.objects.create(session=session, run=run, turn=1, position=1, role="assistant", tool_calls=calls)
ToolCall.objects.create(run=run, call_id="call_1", tool="calculator", arguments={{"expression": "6*7"}},
    idempotency_key="k", status="unknown", started_at=now)
AgentSession.objects.filter(pk=session.pk).update(next_turn=2)
"""


def open_parked(page: Page, site: Site, client: Client) -> None:
    session_id = client.new_session()
    site.manage("shell", "-v", "0", "-c", PARKED.format(session_id=session_id))
    page.goto(f"{site.url}/c/{session_id}/")
    expect(page.locator("#state")).to_have_text("live")


def test_a_tool_call_of_unknown_outcome_is_settled(page: Page, site: Site, client_of_site: Client) -> None:
    open_parked(page, site, client_of_site)
    approval = page.get_by_role("group", name="Your decision about this tool call")
    expect(approval).to_contain_text("Did it take effect?")
    offered = ["It happened", "Run it again", "Tell the agent nobody knows"]
    expect(approval.locator("button:visible")).to_have_text(offered)
    expect(page.locator("#stop")).to_be_visible()
    approval.get_by_role("button", name="Tell the agent nobody knows").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".tool-result")).to_contain_text("outcome is unknown")
    wait_for_answer(page)
    expect(page.locator(".approval:visible")).to_have_count(0)
    expect(page.locator(".tool-state")).to_have_text("failed")
    expect(page.locator(".tool summary")).to_be_focused()
    expect(page.locator("#alert")).to_be_hidden()
    assert roles(page) == ["user", "assistant", "assistant"]


@pytest.mark.complains("status of 404")
def test_a_call_that_cannot_be_settled_can_be_tried_again(page: Page, site: Site, client_of_site: Client) -> None:
    open_parked(page, site, client_of_site)
    button = page.get_by_role("button", name="Run it again")
    expect(button).to_be_visible()  # what waits is asked for after the page has loaded, and finds its card by the call
    page.evaluate("document.querySelector('.tool').dataset.call = 'nobody'")
    button.click()
    expect(page.locator("#alert")).to_have_text(re.compile("tool call"))
    expect(button).to_be_enabled()
    expect(button).to_be_focused()
    page.evaluate("document.querySelector('.tool').dataset.call = 'call_1'")
    button.click()
    wait_for_answer(page)
    expect(page.locator(".tool-result")).to_have_text("42")


def test_a_run_that_waits_for_a_person_can_be_stopped(page: Page, site: Site, client_of_site: Client) -> None:
    open_parked(page, site, client_of_site)
    expect(page.locator(".approval")).to_be_visible()
    page.click("#stop")
    expect(page.locator(".approval")).to_be_hidden()
    expect(page.locator(".note:visible")).to_have_text("Stopped before its end.")
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator(".tool-state")).to_have_text("no result")


def ask_for_mail(page: Page, site: Site) -> None:
    fields = "name='mail-page', defaults={'title': 'Mail', 'runtime': 'chat', 'tools': ['send_mail']}"
    code = f"from sessions_app.models import AgentType; AgentType.objects.get_or_create({fields})"
    site.manage("shell", "-v", "0", "-c", code)
    page.reload()
    start(page, '[[tool=send_mail args={"to": "a@b.c"}]]', agent="mail-page")


@pytest.mark.parametrize("is_reloaded", [False, True])
def test_a_tool_call_is_approved_with_other_arguments(page: Page, site: Site, is_reloaded: bool) -> None:
    ask_for_mail(page, site)
    approval = page.get_by_role("group", name="Your decision about this tool call")
    expect(approval).to_contain_text("May it?")
    if is_reloaded:
        page.reload()
        expect(approval).to_contain_text("May it?")
    expect(approval.locator("button:visible")).to_have_text(["Approve", "Deny"])
    arguments = approval.get_by_label("Arguments")
    arguments.fill("{")
    approval.get_by_role("button", name="Approve").click()
    expect(page.locator("#alert")).to_have_text("The arguments are not valid JSON.")
    arguments.fill('{"to": "x@y.z"}')
    approval.get_by_role("button", name="Approve").click()
    wait_for_answer(page)
    expect(page.locator(".tool-result")).to_contain_text("to x@y.z")
    expect(page.locator(".tool-args")).to_contain_text("x@y.z")
    expect(page.locator(".approval:visible")).to_have_count(0)
    expect(page.locator("#alert")).to_be_hidden()


def test_a_tool_call_is_denied_with_a_reason(page: Page, site: Site) -> None:
    ask_for_mail(page, site)
    approval = page.get_by_role("group", name="Your decision about this tool call")
    approval.get_by_label("Reason").fill("too late")
    approval.get_by_role("button", name="Deny").click()
    wait_for_answer(page)
    expect(page.locator(".tool-result")).to_contain_text("This call was denied: too late")
    expect(page.locator(".tool-state")).to_have_text("failed")

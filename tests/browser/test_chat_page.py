"""The chat page in a real browser."""

import re

import pytest
from playwright.sync_api import FloatRect, Locator, Page, expect

from tests.browser.chatting import BREAKABLE, receive, roles, send, send_frame, shown, start, wait_for_answer
from tests.site import Client, Site


def test_it_chats_with_thoughts_tools_and_markdown(page: Page) -> None:
    start(page, "What is 12*7 and what time is it in Tokyo?")
    wait_for_answer(page)
    expect(page.locator(".message.user")).to_have_text(re.compile("What is 12"))
    expect(page.locator(".message.assistant strong").first).to_have_text("84")
    thought = page.locator("details.thought:not([hidden])").first
    assert thought.get_attribute("open") is None
    thought.locator("summary").click()
    expect(thought.locator(".thought-text")).to_contain_text("2 tool calls")
    tool = page.locator(".tool").first
    expect(tool.locator(".tool-state")).to_have_text(re.compile(r"\d+ ms"))
    tool.locator("summary").click()
    expect(tool.locator(".tool-args")).to_contain_text("12*7")
    expect(tool.locator(".tool-result")).to_have_text("84")
    expect(page.locator("#title")).to_contain_text("What is 12*7")


def test_a_reload_keeps_everything(page: Page) -> None:
    start(page, "What is 2+2?")
    wait_for_answer(page)
    send(page, "hello")
    wait_for_answer(page)
    before = shown(page)
    page.reload()
    expect(page.locator("#state")).to_have_text("live")
    assert shown(page) == before
    expect(page.locator(".tool")).to_have_count(1)


def test_a_reload_in_the_middle_of_an_answer_goes_on(page: Page) -> None:
    start(page, "[[tokens=300 delay_ms=5]]", agent="chat")
    expect(page.locator(".message.assistant .text")).to_contain_text("tok20")
    page.reload()
    wait_for_answer(page)
    assert shown(page)[-1].split() == [f"tok{n}" for n in range(300)]


def test_a_lost_connection_resumes_without_hole_or_repeat(page: Page) -> None:
    page.add_init_script(BREAKABLE)
    start(page, "[[tokens=400 delay_ms=5]]", agent="chat")
    for token in ("tok20", "tok120"):
        expect(page.locator(".message.assistant .text")).to_contain_text(token)
        page.evaluate("window.sockets.at(-1).close()")
        expect(page.locator("#state")).to_have_text("live", timeout=10_000)
    wait_for_answer(page)
    assert shown(page)[-1].split() == [f"tok{n}" for n in range(400)]
    assert page.evaluate("window.sockets.length") >= 3


def test_the_stop_button_stops_and_keeps_what_came(page: Page) -> None:
    start(page, "[[tokens=5000 delay_ms=5]]", agent="chat")
    expect(page.locator(".message.assistant .text")).to_contain_text("tok10")
    page.click("#stop")
    expect(page.locator(".note:not([hidden])")).to_have_text("Stopped before its end.")
    expect(page.locator("#stop")).to_be_hidden()
    count = len(shown(page)[-1].split())
    assert 10 < count < 5000
    page.reload()
    expect(page.locator("#state")).to_have_text("live")
    assert len(shown(page)[-1].split()) >= count


def test_a_failed_run_says_so(page: Page) -> None:
    start(page, "[[status=500]]", agent="chat")
    expect(page.locator(".note.failure")).to_contain_text("answered with status 500")


def test_a_message_sent_meanwhile_waits_for_its_turn(page: Page) -> None:
    start(page, "[[tokens=150 delay_ms=5]]", agent="chat")
    expect(page.locator(".message.assistant .text")).to_contain_text("tok5")
    send(page, "second [[tokens=3]]")
    expect(page.locator(".message.user").last.locator(".note")).to_have_text("Waits for its turn")
    expect(page.locator(".message").last.locator(".text")).to_have_text("tok0 tok1 tok2", timeout=20_000)
    assert roles(page) == ["user", "assistant", "user", "assistant"]


def test_a_message_that_steers_does_not_end_the_answer(page: Page) -> None:
    page.add_init_script(BREAKABLE)
    start(page, "[[tokens=100 delay_ms=5]]", agent="chat")
    expect(page.locator(".message.assistant .text")).to_contain_text("tok5")
    send_frame(page, type="chat", message="also [[tokens=300 delay_ms=5]]", on_busy="steer")
    expect(page.locator(".message.assistant").nth(1).locator(".text")).to_contain_text("tok20")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#announce")).to_have_text("")
    assert roles(page) == ["user", "assistant", "user", "assistant"]
    wait_for_answer(page)
    before = shown(page)
    assert [len(text.split()) for text in before] == [2, 100, 3, 300]
    page.reload()
    assert shown(page) == before


def test_a_turn_that_is_rolled_back_leaves_the_page(page: Page) -> None:
    page.add_init_script(BREAKABLE)
    start(page, "[[tokens=5000 delay_ms=5]]", agent="chat")
    expect(page.locator(".message.assistant .text")).to_contain_text("tok10")
    send_frame(page, type="chat", message="rather [[tokens=3]]", on_busy="rollback")
    expect(page.locator(".message.user .text")).to_have_text("rather [[tokens=3]]")
    expect(page.locator(".message.assistant .text")).to_have_text("tok0 tok1 tok2")
    assert roles(page) == ["user", "assistant"]


def test_a_gap_is_told_and_nothing_is_thrown_away(page: Page) -> None:
    page.add_init_script(BREAKABLE)
    start(page, "[[tokens=200 delay_ms=5]]", agent="chat")
    expect(page.locator(".message.assistant .text")).to_contain_text("tok5")
    receive(page, "discard", reason="gap", since="1-1")
    expect(page.locator(".message.assistant .note")).to_contain_text("until the answer is complete")
    wait_for_answer(page)
    assert len(shown(page)[-1].split()) == 200
    expect(page.locator(".message.assistant .note")).to_contain_text("Load the page again")


def test_another_attempt_keeps_finished_tools_and_drops_the_rest(page: Page) -> None:
    page.add_init_script(BREAKABLE)
    start(page, "What is 2+2?")
    wait_for_answer(page)
    run = "11111111-2222-3333-4444-555555555555"
    other = "22222222-2222-3333-4444-555555555555"
    receive(page, "message", "900-1", message_id=900_001, run_id=run, role="user", content="Go")
    for seq, call in enumerate(("done", "void"), 2):
        receive(page, "tool_call", f"900-{seq}", tool_call_id=call, tool="clock", args={})
    receive(page, "tool_result", "900-4", tool_call_id="done", tool="clock", result="1", is_error=False, duration_ms=1)
    receive(page, "done", None, run_id=other, status="succeeded")
    expect(page.locator("[data-call=void] .tool-state")).to_have_text("running")
    expect(page.locator("#stop")).to_be_visible()
    receive(page, "discard", "901-1", run_id=run, reason="new_attempt", attempt=2, since="900-2")
    expect(page.locator("[data-call=done] .tool-state")).to_have_text("1 ms")
    expect(page.locator("[data-call=void]")).to_have_count(0)
    receive(page, "response", "901-2", content="half a sen")
    receive(page, "discard", "902-1", run_id=run, reason="new_attempt", attempt=3, since="901-1")
    expect(page.get_by_text("half a sen")).to_have_count(0)
    receive(page, "done", "902-2", run_id=run, status="succeeded")
    expect(page.locator("#stop")).to_be_hidden()


def test_markup_from_a_model_does_nothing(page: Page) -> None:
    evil = (
        "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script> ![p](https://evil.example/p.png) "
        "[l](javascript:window.hacked=1) <iframe src=/></iframe> **fine**"
    )
    start(page, evil)
    wait_for_answer(page)
    answer = page.locator(".message.assistant .text").first
    expect(answer.locator("strong").first).to_have_text("fine")
    assert answer.locator("img, script, iframe, [onerror], a[href^='javascript']").count() == 0
    assert page.evaluate("window.hacked") is None


def test_code_is_highlighted(page: Page) -> None:
    start(page, "hello")
    wait_for_answer(page)
    expect(page.locator("pre code .hljs-keyword").first).to_have_text("async")
    expect(page.locator("pre .copy")).to_have_count(1)


def test_conversations_are_renamed_searched_and_deleted(page: Page, site: Site) -> None:
    start(page, "A conversation about penguins")
    wait_for_answer(page)
    row = page.locator(".session.current")
    row.hover()
    row.locator(".rename").click()
    page.fill("#new-title", "Birds of the south")
    page.click("#rename .primary")
    expect(row.locator(".session-title")).to_have_text("Birds of the south")
    expect(page.locator("#title")).to_have_text("Birds of the south")
    page.keyboard.press("Control+k")
    page.keyboard.type("birds")
    expect(page.locator(".session:visible")).to_have_count(1)
    page.keyboard.press("Enter")
    page.wait_for_url("**q=birds**")
    expect(page.locator(".session")).to_have_count(1)
    page.locator(".session").hover()
    page.locator(".session .delete").click()
    page.click("#delete .danger")
    expect(page.locator(".session", has_text="Birds of the south")).to_have_count(0)


def test_enter_saves_a_new_title_and_escape_does_not(page: Page) -> None:
    start(page, "A conversation about whales")
    wait_for_answer(page)
    row = page.locator(".session.current")
    dialog = page.get_by_role("dialog", name="Rename")
    for key, title in (("Enter", "Mammals of the sea"), ("Escape", "Fish")):
        row.locator(".rename").focus()
        page.keyboard.press("Enter")
        page.fill("#new-title", title)
        page.keyboard.press(key)
        expect(dialog).to_be_hidden()
        expect(row.locator(".session-title")).to_have_text("Mammals of the sea")
    row.locator(".rename").focus()
    page.keyboard.press("Enter")
    page.fill("#new-title", "Fish")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    page.reload()
    expect(page.locator("#title")).to_have_text("Mammals of the sea")


def test_enter_does_not_delete(page: Page) -> None:
    start(page, "A conversation to keep")
    wait_for_answer(page)
    row = page.locator(".session.current")
    row.locator(".delete").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(row).to_have_count(1)


def test_a_search_that_finds_nothing_says_so(page: Page, client_of_site: Client) -> None:
    start(page, "A conversation about owls")
    wait_for_answer(page)
    hint = page.get_by_role("navigation").get_by_role("status")
    expect(hint).to_have_text("")
    for _ in range(31):  # with which the list does not show all
        client_of_site.new_session()
    page.goto(page.url)
    expect(page.locator("#state")).to_have_text("live")
    page.fill("#search", "about owls")
    expect(page.locator(".session:visible")).to_have_count(0)
    expect(hint).to_have_text("Nothing matches here. Enter searches all conversations.")
    page.press("#search", "Enter")
    page.wait_for_url("**q=about**")
    expect(page.locator(".session:visible")).to_have_text(re.compile("A conversation about owls"))
    expect(hint).to_have_text("")
    page.fill("#search", "about griffins")
    expect(hint).to_have_text("Nothing matches here. Enter searches all conversations.")
    page.fill("#search", "about owls")
    expect(hint).to_have_text("")
    page.fill("#search", "about griffins")
    page.press("#search", "Enter")
    page.wait_for_url("**griffins**")
    expect(hint).to_have_text("Nothing matches.")


@pytest.mark.parametrize("end", ["failed", "stopped"])
def test_a_conversation_has_its_title_however_its_first_turn_ends(page: Page, end: str) -> None:
    asked = "[[status=500]]" if end == "failed" else "[[tokens=5000 delay_ms=5]]"
    start(page, asked, agent="chat")
    if end == "stopped":
        expect(page.locator(".message.assistant .text")).to_contain_text("tok10")
        page.click("#stop")
    wait_for_answer(page)
    expect(page.locator("#title")).to_have_text(asked)
    expect(page.locator(".session.current .session-title")).to_have_text(asked)


@pytest.mark.parametrize("width", [1200, 375])
def test_what_stands_beside_and_below_a_message_has_its_place(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    start(page, "hi")
    wait_for_answer(page)
    page.reload()  # an answer can be pinned when the page knows its number
    expect(page.locator("#state")).to_have_text("live")
    column = box(page.locator("#messages"))
    for role in ("user", "assistant"):
        message = page.locator(f".message.{role}").first
        pin, fork = (box(message.get_by_role("button", name=name)) for name in ("Pin", "Fork"))
        assert pin["height"] == fork["height"] < 30
        assert pin["y"] == fork["y"]
        assert column["x"] <= pin["x"] < pin["x"] + pin["width"] <= fork["x"]
        assert fork["x"] + fork["width"] <= column["x"] + column["width"]
    right = column["x"] + column["width"]
    assert edge_of_send(page) == pytest.approx(right, abs=1)
    send(page, "[[tokens=5000 delay_ms=5]]")
    expect(page.locator("#stop")).to_be_visible()
    assert edge_of_send(page) == pytest.approx(right, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.click("#stop")


def box(element: Locator) -> FloatRect:
    found = element.bounding_box()
    assert found
    return found


def edge_of_send(page: Page) -> float:
    send = box(page.locator("#send"))
    return send["x"] + send["width"]


def test_it_works_by_keyboard_alone(page: Page) -> None:
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    page.wait_for_url("**/c/**")
    expect(page.locator(".message.user .text")).to_have_text("one\ntwo")
    wait_for_answer(page)
    send(page, "[[tokens=5000 delay_ms=5]]")
    expect(page.locator("#stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".note:not([hidden])")).to_have_text("Stopped before its end.")


def test_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    start(page, "Show " + "averyveryverylongwordwithoutanyspace" * 5)
    wait_for_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    expect(page.locator("#sidebar")).not_to_be_in_viewport()
    page.click("#menu")
    expect(page.locator("#sidebar")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).not_to_be_in_viewport()


def test_light_and_dark(page: Page) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page.emulate_media(color_scheme="light")
    light = ground()
    page.emulate_media(color_scheme="dark")
    dark = ground()
    assert light != dark
    page.click("#theme")
    assert ground() == light
    page.reload()
    assert ground() == light


def test_everything_has_a_name_for_a_screen_reader(page: Page) -> None:
    start(page, "What is 1+1?")
    wait_for_answer(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, a, input:not([type=hidden]), textarea, select')]
             .filter((e) => e.checkVisibility())
             .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length || e.title))
             .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("main").count() == page.locator("nav").count() == page.locator("h1").count() == 1


def test_somebody_elses_conversation_is_not_found(page: Page, site: Site) -> None:
    answer = page.request.get(f"{site.url}/c/11111111-2222-3333-4444-555555555555/")
    assert answer.status == 404

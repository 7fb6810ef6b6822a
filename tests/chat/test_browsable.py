"""The browsable API of turns: its forms work in a browser."""

import httpx

from tests.site import Client

PAGE = {"Accept": "text/html"}


def submit(logged_in: httpx.Client, url: str, **form: str) -> httpx.Response:
    """Send the form of a browsable page, as the browser would."""
    assert logged_in.get(url, headers=PAGE).status_code in (200, 405)
    form["csrfmiddlewaretoken"] = logged_in.cookies["csrftoken"]
    return logged_in.post(url, data=form, headers={**PAGE, "Referer": str(logged_in.base_url)})


def test_one_can_chat_by_the_form(logged_in: httpx.Client, client_of_site: Client) -> None:
    answer = submit(logged_in, f"/sessions/{client_of_site.new_session()}/chat", message="What is 3*5?")
    assert answer.status_code == 200
    assert "<html" in answer.text
    assert "**15**" in answer.text


def test_one_can_open_a_session_by_the_form(logged_in: httpx.Client) -> None:
    answer = submit(logged_in, "/sessions", agent_type="demo", title="By the form")
    assert answer.status_code == 201
    assert "By the form" in answer.text


def test_a_wrong_form_says_what_is_wrong(logged_in: httpx.Client, client_of_site: Client) -> None:
    answer = submit(logged_in, f"/sessions/{client_of_site.new_session()}/chat", message="")
    assert answer.status_code == 400
    assert "invalid_request" in answer.text


def test_events_are_a_page_of_what_is_on_record(logged_in: httpx.Client, client_of_site: Client) -> None:
    session = client_of_site.new_session()
    client_of_site.ask(session, "hello")
    page = logged_in.get(f"/sessions/{session}/events?after=0-0", headers=PAGE)
    assert "1-1" in page.text
    assert "done" in page.text


def test_cancelling_by_the_form_says_that_nothing_runs(logged_in: httpx.Client, client_of_site: Client) -> None:
    assert submit(logged_in, f"/sessions/{client_of_site.new_session()}/cancel").status_code == 409


def test_agents_are_listed(client_of_site: Client) -> None:
    agents = {agent["name"]: agent for agent in client_of_site.http.get("/agents").json()}
    assert set(agents) >= {"demo", "chat"}
    assert agents["chat"]["is_default"] is True

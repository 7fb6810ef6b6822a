"""GET /agent/{id}/chat: for the browser's EventSource, which acts by a GET and comes back by itself."""

from collections.abc import Iterator

import httpx
import pytest

from tests.site import Client, Site, read_events, text_of


@pytest.fixture
def browser(site: Site) -> Iterator[httpx.Client]:
    """A client with the login cookie."""
    with httpx.Client(base_url=site.url, follow_redirects=True, timeout=30.0) as client:
        client.get("/login/")
        token = client.cookies["csrftoken"]
        form = {"username": "admin", "password": site.credentials["password"], "csrfmiddlewaretoken": token}
        assert client.post("/login/", data=form).status_code == 200
        yield client


def chat(browser: httpx.Client, session: str, **headers: str) -> httpx.Response:
    return browser.get(f"/agent/{session}/chat", params={"message": "What is 1+1?"}, headers=headers)


def test_the_sites_own_page_gets_the_stream(browser: httpx.Client, client_of_site: Client) -> None:
    answer = chat(browser, client_of_site.new_session(), **{"Sec-Fetch-Site": "same-origin"})
    events = list(read_events(iter(answer.text.splitlines())))
    assert text_of(events) == "- `1+1` = **2**"
    assert answer.text.startswith("retry: ")


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"}, {}],
)
def test_another_sites_page_is_refused(headers: dict[str, str], browser: httpx.Client, client_of_site: Client) -> None:
    session = client_of_site.new_session()
    answer = chat(browser, session, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_origin")
    assert client_of_site.http.get(f"/sessions/{session}").json()["message_count"] == 0


def test_a_form_of_another_site_cannot_post_with_the_cookie(browser: httpx.Client, client_of_site: Client) -> None:
    session = client_of_site.new_session()
    answer = browser.post(f"/sessions/{session}/chat", json={"message": "hi"})
    assert answer.status_code == 403


def test_coming_back_goes_on_behind_the_last_event(client_of_site: Client) -> None:
    session = client_of_site.new_session()
    with client_of_site.stream("GET", f"/agent/{session}/chat", params={"message": "Count to 40"}) as stream:
        events = list(stream)
    middle = events[len(events) // 2]
    headers = {"Last-Event-ID": middle["id"]}
    with client_of_site.stream("GET", f"/agent/{session}/chat", headers=headers) as stream:
        rest = list(stream)
    assert text_of(rest) == text_of(events[len(events) // 2 + 1 :])
    assert rest[-1]["type"] == "done"
    assert client_of_site.http.get(f"/sessions/{session}/runs").json()["count"] == 1


def test_coming_back_after_the_end_gets_204_so_that_the_browser_stops(client_of_site: Client) -> None:
    session = client_of_site.new_session()
    last = client_of_site.chat(session, "hello")[-1]["id"]
    answer = client_of_site.http.get(f"/agent/{session}/chat?message=hello", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.content) == (204, b"")
    assert client_of_site.http.get(f"/sessions/{session}/runs").json()["count"] == 1


def test_a_message_is_needed(client_of_site: Client) -> None:
    answer = client_of_site.http.get(f"/agent/{client_of_site.new_session()}/chat")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")

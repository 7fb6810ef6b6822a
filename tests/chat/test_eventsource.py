"""GET /agent/{id}/chat: for the browser's EventSource, which acts by a GET and comes back by itself."""

import httpx
import pytest

from tests.site import Client, read_events, text_of


def chat(logged_in: httpx.Client, session: str, **headers: str) -> httpx.Response:
    return logged_in.get(f"/agent/{session}/chat", params={"message": "What is 1+1?"}, headers=headers)


def test_the_sites_own_page_gets_the_stream(logged_in: httpx.Client, client_of_site: Client) -> None:
    answer = chat(logged_in, client_of_site.new_session(), **{"Sec-Fetch-Site": "same-origin"})
    events = list(read_events(iter(answer.text.splitlines())))
    assert text_of(events) == "- `1+1` = **2**"
    assert answer.text.startswith("retry: ")


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"}, {}],
)
def test_another_sites_page_is_refused(
    headers: dict[str, str], logged_in: httpx.Client, client_of_site: Client
) -> None:
    session = client_of_site.new_session()
    answer = chat(logged_in, session, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_origin")
    assert client_of_site.http.get(f"/sessions/{session}").json()["message_count"] == 0


def test_a_form_of_another_site_cannot_post_with_the_cookie(logged_in: httpx.Client, client_of_site: Client) -> None:
    session = client_of_site.new_session()
    answer = logged_in.post(f"/sessions/{session}/chat", json={"message": "hi"})
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

"""The same message with the same key is one run, however often it comes."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chat.test_websocket import open_socket, receive_until, send
from tests.site import Client, Site, text_of

ASKED = {"message": "hi [[tokens=40 delay_ms=5]]"}
WHOLE = "".join(f"tok{n} " for n in range(40))


def test_many_at_once_get_one_run_and_all_of_its_events(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session("chat")

    def ask(_: int) -> list[dict[str, object]]:
        headers = {"Idempotency-Key": "once"}
        with (
            site.client() as client,
            client.stream("POST", f"/sessions/{session}/chat", json=ASKED, headers=headers) as events,
        ):
            return list(events)

    with ThreadPoolExecutor(8) as pool:
        tapes = list(pool.map(ask, range(8)))
    tapes.append(ask(0))  # when it is over, too
    assert len({str(tape[-1]["run_id"]) for tape in tapes}) == 1
    for tape in tapes:
        assert (tape[0]["type"], tape[-1]["type"], text_of(tape)) == ("message", "done", WHOLE)
    assert len(client_of_site.http.get(f"/sessions/{session}/runs").json()["results"]) == 1


def test_a_key_is_of_one_session_and_one_message(client_of_site: Client) -> None:
    headers = {"Idempotency-Key": "mine"}
    one, two = client_of_site.new_session(), client_of_site.new_session()
    body = {"message": "What is 1+1?", "stream": False}
    first = client_of_site.http.post(f"/sessions/{one}/chat", json=body, headers=headers).json()
    again = client_of_site.http.post(f"/sessions/{one}/chat", json=body, headers=headers).json()
    elsewhere = client_of_site.http.post(f"/sessions/{two}/chat", json=body, headers=headers).json()
    assert first == again
    assert elsewhere["run_id"] != first["run_id"]
    body["message"] = "What is 2+2?"
    refused = client_of_site.http.post(f"/sessions/{one}/chat", json=body, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_it_is_the_same_by_websocket(client_of_site: Client, site: Site) -> None:
    session = client_of_site.new_session()
    accepted = []
    with open_socket(site, session) as socket:
        for _ in range(2):
            send(socket, type="chat", message="hi", idempotency_key="k")
            accepted.append(receive_until(socket, "accepted")[-1]["data"]["run_id"])
        receive_until(socket, "done")
    assert accepted[0] == accepted[1]


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb"])
def test_a_key_of_no_form_is_refused(client_of_site: Client, key: str) -> None:
    session = client_of_site.new_session()
    refused = client_of_site.http.post(
        f"/sessions/{session}/chat", json={"message": "hi"}, headers={"Idempotency-Key": key}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")

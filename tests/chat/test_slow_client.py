"""A client that does not read slows nobody down, and gets everything once it does."""

import socket

from tests.site import Client, Site, read_events, text_of


def test_a_client_that_stops_reading_gets_everything_later(site: Site, client_of_site: Client) -> None:
    session = client_of_site.new_session("chat")
    slow = socket.create_connection(("127.0.0.1", site.port))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    request = (
        f"GET /sessions/{session}/events?after=0-0 HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n"
        f"Authorization: Bearer {site.token}\r\n\r\n"
    )
    slow.sendall(request.encode())
    for _ in range(3):  # meanwhile others are served as ever
        assert text_of(client_of_site.chat(session, "[[tokens=4000]]")).endswith("tok3999 ")
    slow.settimeout(20.0)
    with slow, slow.makefile("r") as lines:
        seen, ends = [], 0
        for event in read_events(line.rstrip("\n") for line in lines):
            seen.append(event)
            ends += event["type"] == "done"
            if ends == 3:
                break
    assert text_of(seen) == "".join(f"tok{n} " for n in range(4000)) * 3

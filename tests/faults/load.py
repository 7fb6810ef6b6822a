"""Clients that talk while things break: they come back after every fault with their cursor, as real ones do."""

import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.site import Site, read_events

PATIENCE_SECONDS = 90.0
_TERMINAL = ("done", "error", "cancelled")


@dataclass
class Seen:
    """What one client saw of its session: every event in the order of arrival, and the runs it was promised."""

    session_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    promised: dict[str, str] = field(default_factory=dict)  # run_id -> its message
    reconnects: int = 0
    problem: str = ""


class Talker(threading.Thread):
    """One client and one session: sends messages one after another and watches each to its end."""

    def __init__(self, site: Site, messages: list[str], agent_type: str = "steps", is_slow: bool = False) -> None:
        super().__init__(daemon=True)
        self._site = site
        self._messages = messages
        self._is_slow = is_slow
        with site.client() as client:
            self.seen = Seen(client.new_session(agent_type))
        self.has_begun = threading.Event()  # the first event of the first run was seen

    def run(self) -> None:
        try:
            with httpx.Client(
                base_url=self._site.url, headers={"Authorization": f"Bearer {self._site.token}"}, timeout=20.0
            ) as http:
                for message in self._messages:
                    self._watch(http, self._send(http, message))
        except Exception as error:
            self.seen.problem = f"{type(error).__name__}: {error}"

    def _send(self, http: httpx.Client, message: str) -> str:
        """Send until it is accepted; the idempotency key makes that one run, however often it is sent."""
        key = uuid.uuid4().hex
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                # The stream is opened to learn the run's id and left at once: the events come by the session's own.
                with http.stream(
                    "POST",
                    f"/sessions/{self.seen.session_id}/chat",
                    json={"message": message},
                    headers={"Idempotency-Key": key},
                ) as answer:
                    if answer.status_code == 200:
                        run_id = next(e["run_id"] for e in read_events(answer.iter_lines()) if "run_id" in e)
                        self.seen.promised[str(run_id)] = message
                        return str(run_id)
                    assert answer.status_code in (500, 503), answer.read()
            except (httpx.TransportError, StopIteration):
                self.seen.reconnects += 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"not accepted: {message}")
            time.sleep(0.1)

    def _watch(self, http: httpx.Client, run_id: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                if self._read(http, run_id):
                    return
            except httpx.TransportError:
                self.seen.reconnects += 1
                time.sleep(0.1)
        raise TimeoutError(f"run {run_id} did not end")

    def _read(self, http: httpx.Client, run_id: str) -> bool:
        """Whether the run's terminal event came."""
        after = next((event["id"] for event in reversed(self.seen.events) if event["id"]), "0-0")
        with http.stream("GET", f"/sessions/{self.seen.session_id}/events", params={"after": after}) as answer:
            if answer.status_code != 200:
                assert answer.status_code in (500, 503), answer.read()
                time.sleep(0.1)
                return False
            for event in read_events(answer.iter_lines()):
                self.seen.events.append(event)
                self.has_begun.set()
                if self._is_slow:
                    time.sleep(0.02)
                if event["type"] in _TERMINAL and event.get("run_id") == run_id:
                    return True
        return False


def talk(site: Site, *, sessions: int, turns: int, steps: int) -> list[Talker]:
    """Start clients; the first of them reads slowly."""
    messages = [f"turn {turn} steps={steps}" for turn in range(turns)]
    talkers = [Talker(site, messages, is_slow=number == 0) for number in range(sessions)]
    for talker in talkers:
        talker.start()
    return talkers


def wait_for(talkers: list[Talker]) -> list[Seen]:
    for talker in talkers:
        talker.join(2 * PATIENCE_SECONDS)
    return [talker.seen for talker in talkers]

"""`python -m bench.latency`: what each technique that shortens the wait is worth, with it and without it.

For each technique two systems run side by side, one with all techniques and one with all but that; turns alternate
between them. Where a network is what the technique saves, a proxy gives each new connection to the model the delay of a
distant one; the model itself is the fake one.
"""

import argparse
import asyncio
import json
import math
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from websockets.sync.client import connect

from bench.report import percentile
from chat.latency import Technique
from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Site, running_site

IDLE_SECONDS = 6.0  # the fake model closes a connection that is idle for 5
CONNECTION_SECONDS = 0.06  # TCP and TLS with a server 20 ms away
_MAKE = """
from sessions_app.models import AgentType
tools = ["pause", "calculator"]
AgentType.objects.create(name="tools", runtime="chat", tools=tools)
AgentType.objects.create(name="eager", runtime="chat", tools=tools, eager_tools=["pause"])
"""


@dataclass(frozen=True)
class Measurement:
    """`sample(site)` gives milliseconds. `is_fresh`: each sample needs a system that has just started."""

    technique: Technique
    what: str
    sample: Callable[[Site], float]
    repetitions: int = 20
    is_fresh: bool = False
    env: tuple[tuple[str, str], ...] = ()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--only", choices=[technique.value for technique in Technique])
    options = parser.parse_args()
    print(f"{'':14} {'':58} {'n':>3} {'with p50':>9} {'p95':>7} {'without p50':>12} {'p95':>7} {'ratio':>6}")
    for measurement in MEASUREMENTS:
        if options.only in (None, measurement.technique):
            print(row(measurement, *compare(measurement, is_quick=options.quick)), flush=True)
    return 0


def row(measurement: Measurement, on: list[float], off: list[float]) -> str:
    ratio = statistics.median(on) / (statistics.median(off) or math.nan)
    shown = [f"{statistics.median(on):9.1f}", f"{percentile(on, 95):7.1f}"]
    shown += [f"{statistics.median(off):12.1f}", f"{percentile(off, 95):7.1f}", f"{ratio:6.2f}"]
    return f"{measurement.technique:14} {measurement.what:58} {len(on):3} {' '.join(shown)}"


def compare(measurement: Measurement, *, is_quick: bool) -> tuple[list[float], list[float]]:
    """Milliseconds with the technique and without it."""
    repetitions = 3 if is_quick else measurement.repetitions
    on: list[float] = []
    off: list[float] = []
    rounds, samples = (repetitions, 1) if measurement.is_fresh else (1, repetitions)
    for _ in range(rounds):
        with systems(measurement) as (with_it, without_it):
            if not measurement.is_fresh:
                for site in (with_it, without_it):
                    measurement.sample(site)  # code and caches warm, in both
            for _ in range(samples):
                on.append(measurement.sample(with_it))
                off.append(measurement.sample(without_it))
    return on, off


@contextmanager
def systems(measurement: Measurement) -> Iterator[list[Site]]:
    others = [technique.value for technique in Technique if technique != measurement.technique]
    with FakeOpenAIProcess() as fake, distant(fake) as url, ExitStack() as stack:
        sites = []
        for techniques in ([*others, measurement.technique.value], others):
            env = {
                "AGENT_MODEL": "fake-model",
                "OPENAI_BASE_URL": url,
                "EXTRA_AGENT_TOOLS": "pause=tests.fakes.own_tools.pause",
                "LATENCY_TECHNIQUES": ",".join(techniques),
                **dict(measurement.env),
            }
            site = stack.enter_context(running_site(**env))
            site.manage("shell", "-v", "0", "-c", _MAKE)
            sites.append(site)
        yield sites


# --- a model that is far away -----------------------------------------------------------------------------------------


@contextmanager
def distant(fake: FakeOpenAIProcess) -> Iterator[str]:
    """The address of a proxy to the fake model: a new connection takes as long as to a distant server."""
    loop = asyncio.new_event_loop()
    port = int(fake.url.rsplit(":", 1)[1])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(CONNECTION_SECONDS)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer), return_exceptions=True)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


# --- samples: each a turn in a session of its own ---------------------------------------------------------------------


def first_token(site: Site, agent: str = "chat", message: str = "[[tokens=3]]", session: str = "") -> float:
    """Milliseconds from before the request to the first word of the answer."""
    with site.client() as client:
        session = session or client.new_session(agent)
        started = time.perf_counter()
        with client.stream("POST", f"/sessions/{session}/chat", json={"message": message}) as events:
            next(event for event in events if event["type"] == "response")
            milliseconds = (time.perf_counter() - started) * 1_000
            list(events)
    return milliseconds


def whole_turn(site: Site, agent: str, message: str) -> float:
    with site.client() as client:
        session = client.new_session(agent)
        started = time.perf_counter()
        answer = client.ask(session, message)
        assert answer["status"] == "succeeded", answer
        return (time.perf_counter() - started) * 1_000


def second_turn(site: Site) -> float:
    """The first token of a second turn, behind a long message that the first one had the provider read."""
    with site.client() as client:
        session = client.new_session("chat")
        client.ask(session, f"{uuid.uuid4()} {'word ' * 1_000} [[tokens=3 prefill_us=100]]")
    return first_token(site, message="[[tokens=3 prefill_us=100]]", session=session)


def after_typing(site: Site) -> float:
    """The first token of a turn by WebSocket, half a second after a user who had been away began to type."""
    with site.client() as client:
        session = client.new_session("chat")
        client.ask(session, "[[tokens=300]]")
    url = f"{site.ws_url}/ws/{session}"
    time.sleep(IDLE_SECONDS)
    with connect(url, additional_headers={"Authorization": f"Bearer {site.token}"}, max_size=None) as socket:
        socket.send(json.dumps({"type": "typing"}))
        time.sleep(0.5)  # somebody types
        started = time.perf_counter()
        socket.send(json.dumps({"type": "chat", "message": "[[tokens=3]]"}))
        while json.loads(socket.recv(timeout=30))["type"] != "response":
            pass
        return (time.perf_counter() - started) * 1_000


_LONG_SESSIONS: dict[str, str] = {}  # site -> one that has outgrown its context
FILLER = "There is a lot to say of it, and none of it matters much. " * 12


def long_session(site: Site) -> str:
    if site.url not in _LONG_SESSIONS:
        with site.client() as client:
            session = _LONG_SESSIONS[site.url] = client.new_session("chat")
            for number in range(16):
                client.ask(session, f"Part {number} of the story. {FILLER}")
        time.sleep(3.0)  # the background indexes and summarises it
    return _LONG_SESSIONS[site.url]


def after_draft(site: Site) -> float:
    """The first token of a turn by WebSocket that has to search a long conversation, half a second after its user
    stopped typing."""
    question = f"What was said of part {uuid.uuid4()}? [[tokens=3]]"
    url = f"{site.ws_url}/ws/{long_session(site)}"
    with connect(url, additional_headers={"Authorization": f"Bearer {site.token}"}, max_size=None) as socket:
        socket.send(json.dumps({"type": "typing", "message": question}))
        time.sleep(0.5)
        started = time.perf_counter()
        socket.send(json.dumps({"type": "chat", "message": question}))
        while json.loads(socket.recv(timeout=30))["type"] != "response":
            pass
        return (time.perf_counter() - started) * 1_000


def turns_without_summary(site: Site) -> float:
    """Not a time: of 16 turns, those whose prompt left older messages out while no summary stood for any."""
    bare = 0
    with site.client() as client:
        session = client.new_session("chat")
        for number in range(16):
            client.ask(session, f"Part {number} of the story. {FILLER}")
            time.sleep(0.5)  # the user reads
            seen = client.http.get(f"/sessions/{session}/context").json()
            bare += not seen["is_whole"] and not any(part["part"] == "summary" for part in seen["parts"])
    return bare


def beside_others(site: Site) -> float:
    """The first token of a turn while 30 others stream."""
    with ThreadPoolExecutor(30) as pool:
        others = [pool.submit(whole_turn, site, "chat", "[[tokens=100 delay_ms=20]]") for _ in range(30)]
        time.sleep(1.0)  # they stream by now
        milliseconds = first_token(site)
        for other in others:
            other.result()
    return milliseconds


PAUSE = 'tool=pause args={"milliseconds": 100}'
LONG_ARGUMENTS = 'tool=calculator args={"expression": "' + "+".join(["1"] * 40) + '"}'
SMALL_CONTEXT = (("MODEL_CONTEXT_TOKENS", "3000"), ("MODEL_RESERVE_TOKENS", "500"), ("MAX_TOKENS_PER_SESSION", "0"))
MEASUREMENTS = (
    Measurement(Technique.POOLING, "first token, a distant model", first_token),
    Measurement(
        Technique.WARM_UP,
        "first token of a worker's first turn, a distant model",
        first_token,
        5,
        is_fresh=True,
        env=(("WARM_UP_SECONDS", "2"),),
    ),
    Measurement(
        Technique.CACHING,
        "first token behind 1,000 words, provider's cache simulated",
        second_turn,
        env=(("CACHE_CONTROL_ENDPOINTS", "default"),),
    ),
    Measurement(Technique.SPECULATION, "first token after typing, a distant model, idle before", after_typing, 10),
    Measurement(
        Technique.SPECULATION,
        "turn with a 100 ms tool before long arguments",
        lambda site: whole_turn(site, "eager", f"[[{PAUSE} {LONG_ARGUMENTS} delay_ms=10]]"),
    ),
    Measurement(
        Technique.SPECULATION,
        "first token after a draft, a conversation that is searched",
        after_draft,
        env=SMALL_CONTEXT,
    ),
    Measurement(
        Technique.SPECULATION,
        "turns (not ms) past the context without a summary",
        turns_without_summary,
        5,
        env=SMALL_CONTEXT,
    ),
    Measurement(
        Technique.PARALLEL_TOOLS,
        "turn with four tools of 100 ms",
        lambda site: whole_turn(site, "tools", f"[[{' '.join([PAUSE] * 4)}]]"),
    ),
    Measurement(Technique.STREAMING, "first token while 30 others stream", beside_others),
)

if __name__ == "__main__":
    sys.exit(main())

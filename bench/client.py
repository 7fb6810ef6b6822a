"""The load client, the same for every target: it talks in many sessions at once and checks every word."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from bench.scenarios import Scenario
from bench.sse import EventSplitter

OPENED_AT_ONCE = 10  # sessions
TURN_SECONDS = 120  # after which a turn counts as lost
IDLE_CONNECTION_SECONDS = 2  # shorter than the servers', so that none is used while it is being closed

TERMINAL = frozenset({"done", "error", "cancelled"})


class TargetError(Exception):
    """The target did not start, or does not answer as agreed."""


@dataclass(frozen=True)
class Address:
    url: str
    token: str


@dataclass(frozen=True)
class Turn:
    """One answer as the client saw it. A problem is anything but the whole answer, once, and its end."""

    first_token_seconds: float | None
    seconds: float
    tokens: int
    problem: str | None


@dataclass(frozen=True)
class Load:
    turns: list[Turn]
    seconds: float


class AnswerReader:
    """Collects the events of one turn. The clock starts when it is made, before anything is sent."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first_token_at: float | None = None
        self.parts: list[str] = []
        self.end: dict[str, Any] | None = None

    def read(self, event_type: str, fields: dict[str, Any]) -> bool:
        """Take one event; True at the last one of the turn."""
        if event_type == "response":
            if self.first_token_at is None:
                self.first_token_at = time.perf_counter()
            self.parts.append(fields["content"])
        elif event_type in TERMINAL:
            self.end = {**fields, "type": event_type}
            return True
        return False

    def turn(self, expected_words: list[str], failure: str | None = None) -> Turn:
        words = "".join(self.parts).split()
        is_started = self.first_token_at is not None
        return Turn(
            first_token_seconds=(self.first_token_at or 0.0) - self.started if is_started else None,
            seconds=time.perf_counter() - self.started,
            tokens=len(words),
            problem=failure or self.find_problem(words, expected_words),
        )

    def find_problem(self, words: list[str], expected_words: list[str]) -> str | None:
        if self.end is None:
            return "the stream ended without a terminal event"
        if self.end["type"] != "done":
            return f"the run ended with {self.end}"
        if words != expected_words:
            return f"{len(words)} words instead of {len(expected_words)}, or not the same ones"
        return None


Talk = Callable[[str, AnswerReader], Awaitable[None]]
"""Sends one message and feeds the reader until the answer's end."""


@asynccontextmanager
async def open_talks(address: Address, transport: str, count: int) -> AsyncIterator[list[Talk]]:
    """New sessions, ready to talk in; with their WebSockets, if these are the transport."""
    headers = {"Authorization": f"Bearer {address.token}"}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_SECONDS)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(address.url, connector=connector, headers=headers))
        sessions = await open_sessions(http, count)
        if transport == "ws":
            yield [await open_websocket(stack, http, session) for session in sessions]
        else:
            yield [sse_talk(http, session) for session in sessions]


async def run_load(talks: list[Talk], scenario: Scenario) -> Load:
    started = time.perf_counter()
    turns = await asyncio.gather(*(talk_through(talk, scenario) for talk in talks))
    seconds = time.perf_counter() - started
    return Load([turn for of_session in turns for turn in of_session], seconds)


async def open_sessions(http: aiohttp.ClientSession, count: int) -> list[str]:
    gate = asyncio.Semaphore(OPENED_AT_ONCE)

    async def open_one() -> str:
        async with gate, http.post("/sessions", json={"agent_type": "chat"}) as response:
            if response.status != 201:
                raise TargetError(f"POST /sessions: {response.status} {(await response.text())[:500]}")
            return str((await response.json())["session_id"])

    return await asyncio.gather(*(open_one() for _ in range(count)))


async def talk_through(talk: Talk, scenario: Scenario) -> list[Turn]:
    expected_words = [f"tok{i}" for i in range(scenario.tokens)]
    turns: list[Turn] = []
    for _ in range(scenario.turns):
        reader = AnswerReader()
        failure: str | None = None
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await talk(scenario.message, reader)
        except (aiohttp.ClientError, TimeoutError, TargetError) as error:
            failure = repr(error)
        turns.append(reader.turn(expected_words, failure))
    return turns


def sse_talk(http: aiohttp.ClientSession, session_id: str) -> Talk:
    async def talk(message: str, reader: AnswerReader) -> None:
        async with http.post(f"/sessions/{session_id}/chat", json={"message": message}) as response:
            if response.status != 200:
                raise TargetError(f"status {response.status}: {(await response.text())[:500]}")
            splitter = EventSplitter()
            async for received in response.content.iter_any():
                for data in splitter.feed(received):
                    event = orjson.loads(data)
                    reader.read(event["type"], event)

    return talk


async def open_websocket(stack: AsyncExitStack, http: aiohttp.ClientSession, session_id: str) -> Talk:
    websocket = await stack.enter_async_context(http.ws_connect(f"/ws/{session_id}"))

    async def talk(message: str, reader: AnswerReader) -> None:
        await websocket.send_str(orjson.dumps({"type": "chat", "message": message}).decode())
        while True:
            frame = await websocket.receive()
            if frame.type is not aiohttp.WSMsgType.TEXT:
                raise TargetError(f"the WebSocket gave {frame}")
            event = orjson.loads(frame.data)
            if reader.read(event["type"], event.get("data", {})):
                return

    return talk

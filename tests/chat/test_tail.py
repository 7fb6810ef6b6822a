"""Reading a session's events while a worker writes them: nothing is thrown away that was only on its way."""

import asyncio
import uuid
from typing import Any

import orjson
import pytest

from chat.stream import tail as reading
from chat.stream.event import StreamEvent
from chat.stream.redis import client, stream_key
from chat.stream.tail import tail
from sessions_app.cursor import Cursor
from sessions_app.models import Event, Run, RunStatus
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)

LIVE = [
    ("message", {"run_id": "r"}),
    *(("response", {"content": f"{n} "}) for n in range(2, 7)),
    ("done", {"run_id": "r"}),
]


async def write(session_id: uuid.UUID, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        type, data = LIVE[seq - 1]
        fields: Any = {"t": type, "d": orjson.dumps(data)}
        await client().xadd(stream_key(session_id), fields, id=f"1-{seq}")


def record(user: Any) -> uuid.UUID:
    """A session whose only turn is on record, from its message to its end."""
    session = create_session(owner=user, agent_type="demo")
    run = Run.objects.create(session=session, turn=1, status=RunStatus.SUCCEEDED, epoch=1)
    whole = {"content": "2 3 4 5 6 "}
    for first, seq, type, data in ((1, 1, *LIVE[0]), (2, 6, "response", whole), (7, 7, *LIVE[6])):
        Event.objects.create(session=session, run=run, epoch=1, first_seq=first, seq=seq, type=type, data=data)
    return session.pk


async def read_to_the_end(session_id: uuid.UUID) -> list[StreamEvent]:
    found: list[StreamEvent] = []
    async for batch in tail(session_id, Cursor(1, 0)):
        found += batch
        if found and found[-1].type == "done":
            return found
    raise AssertionError


@pytest.mark.parametrize("is_flushed", [True, False], ids=["", "never flushed"])
def test_an_end_that_is_on_record_before_it_is_in_the_stream(
    is_flushed: bool, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = record(user)
    asked = reading._has_ended_since
    flushing: list[asyncio.Task[None]] = []

    async def flush_afterwards(*args: Any) -> bool:
        """The worker has committed, and flushes just after the reader has looked."""
        has_ended = await asked(*args)
        if is_flushed and not flushing:
            flushing.append(asyncio.create_task(write(session_id, 5, 7)))
        return has_ended

    monkeypatch.setattr(reading, "_has_ended_since", flush_afterwards)

    async def run() -> list[StreamEvent]:
        await write(session_id, 1, 4)
        return await asyncio.wait_for(read_to_the_end(session_id), 10.0)

    events = asyncio.run(run())
    text = "".join(event.fields()["content"] for event in events if event.type == "response")
    if is_flushed:
        assert ("discard" in [event.type for event in events], text) == (False, "2 3 4 5 6 ")
    else:  # its worker is dead
        assert [event.type for event in events] == ["message", "response", "discard", "response", "done"]
        assert text == "2 3 4 2 3 4 5 6 "

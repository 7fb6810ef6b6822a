"""An event on its way to clients: encoded once by the worker, framed by the gateway without decoding."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson

from sessions_app.cursor import Cursor

DELTA_TYPES = frozenset({"response", "thought"})
TERMINAL_TYPES = frozenset({"done", "error", "cancelled"})


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """`data` is a JSON object, the event's fields without its type. Without an `id` the event is of this
    connection only and no cursor points to it."""

    id: Cursor | None
    type: str
    data: bytes

    def fields(self) -> dict[str, Any]:
        return dict(orjson.loads(self.data))


def make_event(id: Cursor | None, type: str, fields: dict[str, Any]) -> StreamEvent:
    return StreamEvent(id, type, orjson.dumps(fields))


def as_sse(event: StreamEvent) -> bytes:
    """Flat, as in `data: {"type":"response","content":"Hi"}`."""
    kind = event.type.encode()
    flat = b'{"type":"' + kind + (b'",' + event.data[1:] if len(event.data) > 2 else b'"}')
    if event.id is None:
        return b"data: " + flat + b"\n\n"
    return b"id: %d-%d\ndata: " % event.id + flat + b"\n\n"


def as_frame(event: StreamEvent) -> str:
    """A WebSocket frame: `{"type","id","data"}`."""
    shown = f'"{event.id}"' if event.id else "null"
    return f'{{"type":"{event.type}","id":{shown},"data":{event.data.decode()}}}'


def merge_deltas(events: Iterable[StreamEvent]) -> list[StreamEvent]:
    """Join neighbouring deltas of one type; each result has the id of the last that went into it."""
    merged: list[StreamEvent] = []
    for (type, epoch), group in groupby(events, key=lambda event: (event.type, event.id and event.id.epoch)):
        neighbours = list(group)
        if type not in DELTA_TYPES or epoch is None or len(neighbours) == 1:
            merged += neighbours
        else:
            content = "".join(event.fields()["content"] for event in neighbours)
            merged.append(make_event(neighbours[-1].id, type, {"content": content}))
    return merged

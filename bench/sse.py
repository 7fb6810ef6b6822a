"""Cutting a stream of server-sent events into their data, as the relay and the client read it."""


class EventSplitter:
    """Fed with what came from the network, it gives the `data:` of every event that is complete."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, received: bytes) -> list[bytes]:
        *blocks, self.rest = (self.rest + received).split(b"\n\n")
        return [data for block in blocks if (data := data_of(block))]


def data_of(block: bytes) -> bytes:
    """The event's data, of one line as everyone here sends it; empty for a comment."""
    for line in block.split(b"\n"):
        if line.startswith(b"data: "):
            return line[6:]
    return b""

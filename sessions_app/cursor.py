"""The one cursor of a session's events: `<epoch>-<n>`."""

import re
from typing import NamedTuple

from sessions_app.errors import InvalidCursorError

_FORM = re.compile(r"(0|[1-9]\d{0,18})-(0|[1-9]\d{0,18})")
MAX_HALF = 2**63 - 1  # both halves are 64-bit in Redis and Postgres


class Cursor(NamedTuple):
    """An event's id. Orders as the events do: by epoch, then by the count within it."""

    epoch: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read `<epoch>-<n>`; raises InvalidCursorError."""
        match = _FORM.fullmatch(text)
        if match is None or max(int(match[1]), int(match[2])) > MAX_HALF:
            raise InvalidCursorError()
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


START = Cursor(0, 0)


def end_of(epoch: int) -> Cursor:
    """A cursor behind every event of this epoch and before all of the next."""
    return Cursor(epoch, MAX_HALF)

"""Clients that are gone: no fault of anything here, so nothing is logged of them and nothing more is sent."""

from collections.abc import Awaitable, Callable
from typing import Any


class ClientLeft(Exception):
    """Whoever would read this has left."""


def telling_who_left(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """A server's `send` that raises ClientLeft where the server raises its own kind of OSError."""

    async def send_or_leave(message: Any) -> None:
        try:
            await send(message)
        except OSError as error:
            raise ClientLeft from error

    return send_or_leave

"""The requests that the ASGI gateway answers itself; all others are Django's."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from chat import sse

Endpoint = Callable[[sse.Exchange, str], Awaitable[None]]

_ROUTES: list[tuple[str, re.Pattern[str], Endpoint]] = [
    ("POST", re.compile(r"/sessions/([^/]+)/chat/?"), sse.chat),
    ("GET", re.compile(r"/sessions/([^/]+)/events/?"), sse.events),
    ("POST", re.compile(r"/sessions/([^/]+)/cancel/?"), sse.cancel),
    ("POST", re.compile(r"/runs/([^/]+)/retry/?"), sse.retry),
    ("POST", re.compile(r"/agent/([^/]+)/chat/?"), sse.chat),
    ("GET", re.compile(r"/agent/([^/]+)/chat/?"), sse.chat_by_get),
]


class StreamingGateway:
    """An ASGI application before Django's. Browsers that ask for a page get the browsable API from Django."""

    def __init__(self, django: Any) -> None:
        self._django = django

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        endpoint, session_id = _match(scope)
        if endpoint is None:
            await self._django(scope, receive, send)
        else:
            await endpoint(sse.Exchange(scope, receive, send), session_id)


def _match(scope: Any) -> tuple[Endpoint | None, str]:
    for method, pattern, endpoint in _ROUTES:
        match = pattern.fullmatch(scope["path"])
        if match and scope["method"] == method and not _wants_page(scope):
            return endpoint, match[1]
    return None, ""


def _wants_page(scope: Any) -> bool:
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])

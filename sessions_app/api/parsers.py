"""JSON bodies: bounded, UTF-8, and without what PostgreSQL cannot keep. And forms, if they are no JSON by mistake."""

import re
from collections.abc import Mapping
from typing import IO, Any

import orjson
from django.conf import settings
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.parsers import BaseParser, FormParser

from sessions_app.errors import MalformedJSONError, RequestTooLargeError

# An escaped NUL: a backslash that is not itself escaped, then u0000.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_MAX_DEPTH = 100


class BoundedJSONParser(BaseParser):
    """application/json by orjson, at most MAX_REQUEST_BYTES."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        body = stream.read(settings.MAX_REQUEST_BYTES + 1)
        if len(body) > settings.MAX_REQUEST_BYTES:
            raise RequestTooLargeError(f"A request has at most {settings.MAX_REQUEST_BYTES} bytes.")
        if not body.strip():
            return {}
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise MalformedJSONError(f"The body is not valid JSON: {error}") from None
        if _NUL.search(body):
            raise MalformedJSONError("The body contains a NUL character.")
        if not _is_shallow(value, _MAX_DEPTH):
            raise MalformedJSONError(f"The body is nested more than {_MAX_DEPTH} levels deep.")
        return value


class WaryFormParser(FormParser):
    """A form, unless it is a JSON document: curl sends one as a form if nobody tells it otherwise."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        form = super().parse(stream, media_type, parser_context)
        if next(iter(form), "").lstrip().startswith(("{", "[")):
            raise UnsupportedMediaType(self.media_type, "This is JSON: send it with Content-Type: application/json.")
        return form


def _is_shallow(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_is_shallow(item, depth - 1) for item in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_shallow(item, depth - 1) for item in value)
    return True

"""CSV that spreadsheets open without harm, written a piece at a time."""

import csv
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from sessions_app.threads import in_database_thread

CONTENT_TYPE = "text/csv; charset=utf-8"
_ROWS_AT_ONCE = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would take a cell for that begins so


def as_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The header and the rows as text, in pieces of many rows."""
    writer = csv.writer(_Echo())
    yield writer.writerow(header)
    left = iter(rows)
    while piece := "".join(writer.writerow(map(_cell, row)) for row in islice(left, _ROWS_AT_ONCE)):
        yield piece


class _Echo:
    """A file that gives back what is written to it, as csv's writer then does."""

    def write(self, text: str) -> str:
        return text


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def csv_download(request: HttpRequest, name: str, pieces: Iterator[str]) -> StreamingHttpResponse:
    """An answer that takes each piece when the one before is sent. The gateway's loop never waits for the database."""
    content = _in_threads(pieces) if isinstance(request, ASGIRequest) else pieces
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingHttpResponse(content, content_type=CONTENT_TYPE, headers=headers)


async def _in_threads(pieces: Iterator[str]) -> AsyncIterator[str]:
    following = in_database_thread(lambda: next(pieces, None))
    while (piece := await following()) is not None:
        yield piece

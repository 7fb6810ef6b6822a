"""Results that are too large for a conversation: the beginning stays in it, the whole is stored with the call."""

from dataclasses import replace
from typing import Any

import orjson
from django.conf import settings

from chat.agents.events import ToolResult
from chat.agents.tools.base import ToolContext, ToolError
from chat.agents.tools.decorator import tool
from sessions_app import queries

PREVIEW_CHARACTERS = 2_000
MAX_STORED_BYTES = 8 * 1_048_576  # what is larger is cut: nobody reads it, and it must fit one statement
_READ_CHARACTERS = 8_000


def shorten(result: ToolResult) -> ToolResult:
    """The result itself if it is small, else one that refers to the whole, which it carries as `stored`."""
    if result.stored:
        return result
    encoded = result.result.encode(errors="replace") if isinstance(result.result, str) else orjson.dumps(result.result)
    if len(encoded) <= settings.TOOL_RESULT_BYTES:
        return result
    text = encoded[:MAX_STORED_BYTES].decode(errors="ignore")
    reference = {
        "stored": True,
        "tool_call_id": result.id,
        "size_bytes": len(encoded),
        "is_complete": len(encoded) <= MAX_STORED_BYTES,
        "preview": text[:PREVIEW_CHARACTERS],
        "hint": f"Too long to be shown at once. Where there is a tool read_result, it reads on: '{result.id}'.",
    }
    return replace(result, result=reference, stored=text)


@tool(idempotent=True)
def read_result(context: ToolContext, tool_call_id: str, offset: int = 0) -> dict[str, Any]:
    """Read a tool's result that was too long to be shown: 8,000 characters from `offset` on."""
    text = queries.stored_result(context.session_id, tool_call_id)
    if text is None:
        raise ToolError(f"There is no stored result of {tool_call_id!r} in this conversation.")
    end = max(offset, 0) + _READ_CHARACTERS
    piece = text[max(offset, 0) : end]
    return {"text": piece, "next_offset": end if end < len(text) else None, "characters": len(text)}

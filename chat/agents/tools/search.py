"""Search in the conversation that the tool is called from."""

from typing import Any

from django.db import close_old_connections

from chat.agents.tools.base import Tool, ToolContext, ToolError
from sessions_app import queries

_LIMIT = 5
_SNIPPET_CHARACTERS = 200


def _search(context: ToolContext, query: str) -> list[dict[str, Any]]:
    if not query.strip():
        raise ToolError("The query is empty.")
    try:
        found = queries.search_messages(context.session_id, query, limit=_LIMIT, but_run=context.run_id)
        return [
            {
                "role": message.role,
                "date": message.created_at.strftime("%Y-%m-%d %H:%M"),
                "text": message.content[:_SNIPPET_CHARACTERS],
            }
            for message in found
        ]
    finally:
        close_old_connections()  # this is a thread of its own: its connection goes back to the pool


search_conversation = Tool(
    name="search_conversation",
    description="Find earlier messages of this conversation that contain the given words, newest first.",
    parameters={
        "type": "object",
        "properties": {"query": {"type": "string", "description": "Words to look for."}},
        "required": ["query"],
    },
    function=_search,
    is_idempotent=True,
)

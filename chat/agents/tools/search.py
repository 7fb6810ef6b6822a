"""Search in the conversation that the tool is called from."""

from typing import Annotated, Any

from pydantic import Field

from chat.agents.tools.base import ToolContext, ToolError
from chat.agents.tools.decorator import tool
from sessions_app import queries

_LIMIT = 5
_SNIPPET_CHARACTERS = 200


@tool(idempotent=True)
def search_conversation(
    context: ToolContext, query: Annotated[str, Field(description="Words to look for.")]
) -> list[dict[str, Any]]:
    """Find earlier messages of this conversation that contain the given words, newest first."""
    if not query.strip():
        raise ToolError("The query is empty.")
    found = queries.search_messages(context.session_id, query, limit=_LIMIT, but_run=context.run_id)
    return [
        {
            "role": message.role,
            "date": message.created_at.strftime("%Y-%m-%d %H:%M"),
            "text": message.content[:_SNIPPET_CHARACTERS],
        }
        for message in found
    ]

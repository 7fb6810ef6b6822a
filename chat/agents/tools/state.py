"""The agent's scratch memory: the session's state document, which clients read and write too."""

import json
from typing import Annotated, Any

from pydantic import Field

from chat.agents.tools.base import ToolContext, ToolError
from chat.agents.tools.decorator import tool
from sessions_app.errors import AgentsiteError
from sessions_app.models import AgentSession
from sessions_app.services.sessions import append_note, patch_state


@tool(idempotent=True)
def read_state(context: ToolContext) -> dict[str, Any]:
    """Read what was noted in this conversation's state: a JSON object."""
    state: dict[str, Any] = AgentSession.objects.values_list("state", flat=True).get(pk=context.session_id)
    return state


@tool(idempotent=True)
def write_state(context: ToolContext, changes: dict[str, Any]) -> dict[str, Any]:
    """Note something in this conversation's state, to be read later: the changes are merged into it, null removes."""
    if "\\u0000" in json.dumps(changes):
        raise ToolError("The state cannot hold NUL characters.")
    try:
        return patch_state(session=AgentSession.objects.get(pk=context.session_id), changes=changes)
    except AgentsiteError as error:
        raise ToolError(error.message) from None


@tool(needs_approval=True)
def save_note(context: ToolContext, text: Annotated[str, Field(min_length=1, max_length=2_000)]) -> dict[str, Any]:
    """Keep a note in this conversation's state, under `notes`, once the user has allowed it."""
    session = AgentSession.objects.get(pk=context.session_id)
    try:
        return append_note(session=session, text=text.replace("\x00", "\ufffd"))
    except AgentsiteError as error:
        raise ToolError(error.message) from None

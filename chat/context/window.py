"""The sliding window: the newest messages that fit, whole turns' worth of sense kept."""

from collections.abc import Sequence

from sessions_app.models import Role
from sessions_app.prompt import PromptMessage


def without_orphans(messages: Sequence[PromptMessage]) -> list[PromptMessage]:
    """Drop tool results whose call fell out of the window: no model accepts one without the other."""
    called = {call["id"] for message in messages for call in message.tool_calls}
    return [message for message in messages if message.role != Role.TOOL or message.tool_call_id in called]

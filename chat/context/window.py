"""The sliding window: the newest messages that fit, whole turns' worth of sense kept."""

from collections.abc import Sequence

from django.conf import settings

from sessions_app.models import Role
from sessions_app.prompt import PromptMessage


def prompt_budget(system_tokens: int, max_context_tokens: int | None) -> int:
    """Tokens that the conversation may take; the rest is for the system prompt and for the answer."""
    limit = max_context_tokens or settings.MODEL_CONTEXT_TOKENS
    reserve = min(settings.MODEL_RESERVE_TOKENS, limit // 4)
    return limit - reserve - system_tokens


def without_orphans(messages: Sequence[PromptMessage]) -> list[PromptMessage]:
    """Drop tool results whose call fell out of the window: no model accepts one without the other."""
    called = {call["id"] for message in messages for call in message.tool_calls}
    return [message for message in messages if message.role != Role.TOOL or message.tool_call_id in called]

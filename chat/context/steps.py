"""Keeps a run's steps within the model's context: tools may say more than there is room for."""

from typing import Any

from chat.context.cutting import SHORT, cut
from sessions_app.token_counting import message_tokens


def chat_tokens(message: dict[str, Any]) -> int:
    """Of a message in the form of the chat-completions API."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return message_tokens(message["content"] or "", *(f"{call['name']} {call['arguments']}" for call in calls))


def shrink(messages: list[dict[str, Any]], excess: int) -> tuple[list[dict[str, Any]], int]:
    """The messages with so many tokens less, as far as that can be, and how many were saved.

    First the oldest exchanges of earlier turns go, then the results of this turn's tools are cut, the oldest first.
    """
    kept, saved = list(messages), 0
    while saved < excess and (end := _first_exchange(kept)):
        first, last = end
        saved += sum(chat_tokens(message) for message in kept[first:last])
        del kept[first:last]
    for index, message in enumerate(kept):
        if saved >= excess:
            break
        if message["role"] == "tool":
            before = chat_tokens(message)
            kept[index] = {**message, "content": cut(message["content"], max(SHORT, before - (excess - saved)))}
            saved += before - chat_tokens(kept[index])
    return kept, saved


def _first_exchange(messages: list[dict[str, Any]]) -> tuple[int, int] | None:
    """Where the oldest exchange stands: from a user's message to the next one. None if there is but the running one."""
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return (users[0], users[1]) if len(users) > 1 else None

"""Keeps a run's steps within the model's context: tools may say more than there is room for."""

from collections.abc import Collection
from itertools import pairwise
from typing import Any

from chat.context.cutting import SHORT, cut
from sessions_app.token_counting import message_tokens


def chat_tokens(message: dict[str, Any]) -> int:
    """Of a message in the form of the chat-completions API."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return message_tokens(message["content"] or "", *(f"{call['name']} {call['arguments']}" for call in calls))


def shrink(
    messages: list[dict[str, Any]], excess: int, *, turn: int, pinned: Collection[str] = ()
) -> tuple[list[dict[str, Any]], int]:
    """The messages with so many tokens less, as far as that can be, and how many were saved.

    First the oldest exchanges of earlier turns go, then the results of tools are cut, the oldest first. The running
    turn begins at `turn`. What is pinned, by texts and ids of tool calls, stays as it is.
    """
    kept, saved = list(messages), 0
    while saved < excess and (end := _first_exchange(kept, turn, pinned)):
        first, last = end
        saved += sum(chat_tokens(message) for message in kept[first:last])
        del kept[first:last]
        turn -= last - first
    for index, message in enumerate(kept):
        if saved >= excess:
            break
        if message["role"] == "tool" and not _is_pinned(message, pinned):
            before = chat_tokens(message)
            kept[index] = {**message, "content": cut(message["content"], max(SHORT, before - (excess - saved)))}
            saved += before - chat_tokens(kept[index])
    return kept, saved


def _first_exchange(messages: list[dict[str, Any]], turn: int, pinned: Collection[str]) -> tuple[int, int] | None:
    """Where the oldest exchange stands that may go: from a user's message to the next one, none of the running turn,
    in which the user may have said more than one thing."""
    users = [index for index in range(turn + 1) if messages[index]["role"] == "user"]
    for first, last in pairwise(users):
        if not any(_is_pinned(message, pinned) for message in messages[first:last]):
            return first, last
    return None


def _is_pinned(message: dict[str, Any], pinned: Collection[str]) -> bool:
    calls = [call["id"] for call in message.get("tool_calls", ())]
    return any(each in pinned for each in (message["content"], message.get("tool_call_id"), *calls))

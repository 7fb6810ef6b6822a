"""Pinned messages: they stand in every prompt, as they are."""

import uuid
from typing import Any

from django.db import transaction

from sessions_app.access import get_session
from sessions_app.context_budget import context_limit, reserve_of
from sessions_app.errors import MessageNotFoundError, PinnedTooLargeError
from sessions_app.memory import pinned_messages
from sessions_app.models import Message
from sessions_app.token_counting import message_tokens

END = 2**31 - 1  # a turn behind all others
SHARE = 0.5  # of the room beside the system prompt: the rest is for the conversation


@transaction.atomic
def set_pinned(*, user: Any, session_id: uuid.UUID | str, message_id: int, is_pinned: bool) -> Message:
    """Pin a message or let it go. Raises SessionNotFoundError, MessageNotFoundError, PinnedTooLargeError."""
    session = get_session(user, session_id, lock=True)
    message = Message.objects.filter(session=session, pk=message_id).first()
    if message is None:
        raise MessageNotFoundError()
    is_new = is_pinned and not message.is_pinned
    message.is_pinned = is_pinned
    message.save(update_fields=["is_pinned"])
    if is_new:
        limit = context_limit(session.agent_type.max_context_tokens)
        room = int(SHARE * (limit - reserve_of(limit) - message_tokens(session.agent_type.system_prompt)))
        tokens = sum(each.token_count for each in pinned_messages(session.pk, turn=END))
        if tokens > room:
            raise PinnedTooLargeError(
                f"The pinned messages would take {tokens} tokens; this agent has room for {room}."
            )
    return message

"""The first half of a turn, in the gateway: admitted, written in one transaction, dispatched on commit."""

from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction

from chat.runs.dispatch import dispatch
from monitoring.admission import admit
from sessions_app.errors import InvalidRequestError, MessageTooLargeError
from sessions_app.services.runs import AcceptedTurn, accept_turn


def start_turn(*, user: Any, session_id: Any, message: Any) -> AcceptedTurn:
    """Accept a message for a session.

    Raises InvalidRequestError, MessageTooLargeError, SessionNotFoundError, SessionExpiredError, QueueFullError
    and what admission raises; then nothing is written.
    """
    text = _checked(message)
    admit(user=user, session_id=session_id)
    with transaction.atomic():
        turn = accept_turn(user=user, session_id=session_id, message=text)
        transaction.on_commit(partial(dispatch, turn.run_id))
    return turn


def _checked(message: Any) -> str:
    if not isinstance(message, str) or not message.strip():
        raise InvalidRequestError("`message` must be a text that is not empty.")
    try:
        size_bytes = len(message.encode())
    except UnicodeEncodeError:
        raise InvalidRequestError("`message` is not valid Unicode.") from None
    if size_bytes > settings.MAX_MESSAGE_BYTES:
        raise MessageTooLargeError(f"A message has at most {settings.MAX_MESSAGE_BYTES} bytes.")
    if "\x00" in message:
        raise InvalidRequestError("`message` contains a NUL character.")
    return message

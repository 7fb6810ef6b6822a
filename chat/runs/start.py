"""The first half of a turn, in the gateway: admitted, written in one transaction, dispatched on commit."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction

from chat.runs.dispatch import dispatch_soon
from chat.stream.publish import publish
from monitoring.admission import admit
from sessions_app.access import get_run
from sessions_app.errors import InvalidRequestError, MessageTooLargeError
from sessions_app.failpoints import fail_point
from sessions_app.models import OnBusy
from sessions_app.services.accepting import AcceptedTurn, accept_turn
from sessions_app.services.forking import retry_run

MAX_KEY_LENGTH = 200


@dataclass(frozen=True)
class TurnOptions:
    """`on_busy`: what to do while another turn runs, one of OnBusy ('': as the agent type says).
    `idempotency_key`: a second request with the same key gets the first one's run."""

    on_busy: Any = ""
    idempotency_key: Any = None


def start_turn(*, user: Any, session_id: Any, message: Any, options: TurnOptions = TurnOptions()) -> AcceptedTurn:
    """Accept a message for a session.

    Raises InvalidRequestError, MessageTooLargeError, SessionNotFoundError, SessionExpiredError, SessionBusyError,
    QueueFullError, IdempotencyKeyReusedError and what admission raises; then nothing is written.
    """
    text = _checked(message)
    _check_options(options)
    admit(user=user, session_id=session_id)
    turn = accept_turn(
        user=user,
        session_id=session_id,
        message=text,
        on_busy=options.on_busy,
        idempotency_key=options.idempotency_key or "",
    )
    if not turn.is_repeated:
        transaction.on_commit(partial(_begin, turn))  # which is now, unless the caller has a transaction open
    return turn


def retry(*, user: Any, run_id: Any) -> AcceptedTurn:
    """Run a failed or cancelled turn again; raises RunNotFoundError and what `retry_run` and admission raise."""
    run = get_run(user, run_id)
    admit(user=user, session_id=run.session_id)
    with transaction.atomic():
        turn = retry_run(user=user, run=run)
        transaction.on_commit(partial(_begin, turn))
    return turn


def _begin(turn: AcceptedTurn) -> None:
    fail_point("after_accept")
    if turn.told:
        publish(turn.told)
    if turn.is_first:  # else whoever ends the run before it dispatches it
        dispatch_soon(turn.run_id, placement=turn.placement)


def _check_options(options: TurnOptions) -> None:
    if options.on_busy not in ("", *OnBusy.values):
        raise InvalidRequestError(f"`on_busy` is one of: {', '.join(OnBusy.values)}.")
    key = options.idempotency_key
    if key is None:
        return
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise InvalidRequestError(f"An idempotency key has 1 to {MAX_KEY_LENGTH} printable characters.")


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

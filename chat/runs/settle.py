"""A person has said what became of a tool call; the run goes on when nothing else is open."""

from functools import partial
from typing import Any

from django.db import transaction

from chat.runs.dispatch import dispatch
from sessions_app.models import Decision, Run
from sessions_app.services.effects import settle_call


def settle(*, run: Run, call_id: str, decision: Decision, result: Any, user: Any) -> bool:
    """Whether the run goes on now. Raises ToolCallNotFoundError, CallNotOpenError."""
    with transaction.atomic():
        ready = settle_call(run=run, call_id=call_id, decision=decision, result=result, user=user)
        if ready is not None:
            transaction.on_commit(partial(dispatch, ready))
    return ready is not None

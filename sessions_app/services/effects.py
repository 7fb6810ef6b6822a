"""The ledger of tools' effects: what a new worker may repeat, and what a person has to settle.

A call of a tool that is not idempotent is marked as started before its tool is. If the worker is lost then, nobody
knows whether the tool took effect: the call is `unknown`, and never repeated blindly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone

from sessions_app.errors import CallNotOpenError, StaleEpochError, ToolCallNotFoundError
from sessions_app.models import AgentSession, Decision, Run, RunStatus, ToolCall, ToolCallStatus
from sessions_app.services.claiming import Claim
from sessions_app.signals import run_ready

_OPEN = (ToolCallStatus.PLANNED, ToolCallStatus.STARTED, ToolCallStatus.UNKNOWN)


@dataclass(frozen=True)
class OpenCall:
    """A call without a result. `is_unknown`: it may have taken effect; then `decision` is a person's, if any."""

    call_id: str
    tool: str
    arguments: dict[str, Any]
    idempotency_key: str
    is_unknown: bool
    decision: str
    decided_result: Any


@transaction.atomic
def start_calls(*, claim: Claim, call_ids: Sequence[str]) -> None:
    """Mark calls as started, before their tools are. Raises StaleEpochError, and then no tool may start."""
    _hold(claim)
    calls = ToolCall.objects.filter(run_id=claim.run_id, call_id__in=call_ids)
    calls.update(status=ToolCallStatus.STARTED, started_at=timezone.now(), decision="")


@transaction.atomic
def take_over_calls(*, claim: Claim) -> list[OpenCall]:
    """The calls that an earlier worker left without a result. Raises StaleEpochError."""
    _hold(claim)
    calls = ToolCall.objects.filter(run_id=claim.run_id)
    calls.filter(status=ToolCallStatus.STARTED, is_idempotent=False).update(status=ToolCallStatus.UNKNOWN)
    calls.filter(status=ToolCallStatus.SKIPPED).update(status=ToolCallStatus.PLANNED)  # the turn is retried
    return [
        OpenCall(
            call.call_id,
            call.tool,
            call.arguments,
            call.idempotency_key,
            call.status == ToolCallStatus.UNKNOWN,
            call.decision,
            call.decided_result,
        )
        for call in calls.filter(status__in=_OPEN, finished_at=None).order_by("pk")
    ]


def _hold(claim: Claim) -> None:
    if not AgentSession.objects.select_for_update().filter(pk=claim.session_id, epoch=claim.epoch).exists():
        raise StaleEpochError()


def calls_to_settle(session: AgentSession) -> list[ToolCall]:
    """What waits for a person in a session."""
    parked = ToolCall.objects.filter(run__session=session, run__status=RunStatus.AWAITING_APPROVAL)
    return list(parked.filter(status=ToolCallStatus.UNKNOWN, decision="").order_by("pk"))


@transaction.atomic
def settle_call(*, run: Run, call_id: str, decision: Decision, result: Any, user: Any) -> bool:
    """Say what became of a call whose outcome is unknown; whether the run goes on now, or others of its calls wait.

    Raises ToolCallNotFoundError, and CallNotOpenError if the call does not wait for anybody.
    """
    AgentSession.objects.select_for_update().get(pk=run.session_id)
    run.refresh_from_db()
    calls = ToolCall.objects.select_for_update().filter(run=run)
    call = calls.filter(call_id=call_id).first()
    if call is None:
        raise ToolCallNotFoundError()
    if run.status != RunStatus.AWAITING_APPROVAL or call.status != ToolCallStatus.UNKNOWN or call.decision:
        raise CallNotOpenError()
    call.decision, call.decided_by, call.decided_at = decision.value, user, timezone.now()
    call.decided_result = result if decision == Decision.HAPPENED else None
    if decision == Decision.RERUN:
        call.status = ToolCallStatus.PLANNED
    call.save()
    if calls.filter(status=ToolCallStatus.UNKNOWN, decision="").exists():
        return False
    run.status, run.dispatched_at = RunStatus.QUEUED, timezone.now()
    run.save(update_fields=["status", "dispatched_at"])
    transaction.on_commit(partial(run_ready.send, Run, run_id=run.pk))
    return True

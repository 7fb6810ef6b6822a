"""What people decide of tool calls while their run is parked: approvals, and outcomes that nobody knows."""

import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from sessions_app.errors import CallNotOpenError, InvalidRequestError, ToolCallNotFoundError
from sessions_app.models import (
    AgentSession,
    AgentTypeVersion,
    Decision,
    Message,
    OnApprovalExpiry,
    Run,
    RunStatus,
    ToolCall,
    ToolCallDecision,
    ToolCallStatus,
)
from sessions_app.models.tool_call import APPROVAL_DECISIONS, OUTCOME_DECISIONS
from sessions_app.services.ending import end_without_worker
from sessions_app.services.telling import Told
from sessions_app.signals import run_ready

APPROVAL_EXPIRED = "approval_expired"
_UNDECIDED = Q(status=ToolCallStatus.AWAITING) | Q(status=ToolCallStatus.UNKNOWN, decision="")


@dataclass(frozen=True)
class Verdict:
    """`arguments`: with `approved`, those to run with instead. `result`: with `happened`, what the tool came to.
    `reason` is told to the agent when a call is denied."""

    decision: Decision
    arguments: dict[str, Any] | None = None
    result: Any = None
    reason: str = ""


def waiting_calls(session: AgentSession) -> list[ToolCall]:
    """What waits for a person in a session."""
    parked = ToolCall.objects.filter(run__session=session, run__status=RunStatus.AWAITING_APPROVAL)
    return list(parked.filter(_UNDECIDED).order_by("pk"))


def decisions_for(call: ToolCall) -> tuple[Decision, ...]:
    """What can be decided of a call that waits."""
    return APPROVAL_DECISIONS if call.status == ToolCallStatus.AWAITING else OUTCOME_DECISIONS


@transaction.atomic
def settle_call(*, run: Run, call_id: str, verdict: Verdict, user: Any) -> bool:
    """Decide about a call that waits; whether the run goes on now, or others of its calls wait.

    Raises ToolCallNotFoundError, CallNotOpenError if the call does not wait for anybody (any more), and
    InvalidRequestError if it waits for a decision of the other kind.
    """
    AgentSession.objects.select_for_update().get(pk=run.session_id)
    run.refresh_from_db()
    call = ToolCall.objects.filter(run=run, call_id=call_id).first()
    if call is None:
        raise ToolCallNotFoundError()
    if run.status != RunStatus.AWAITING_APPROVAL or not ToolCall.objects.filter(_UNDECIDED, pk=call.pk).exists():
        raise CallNotOpenError()
    if verdict.decision not in (allowed := decisions_for(call)):
        raise InvalidRequestError(f"Of this call, `decision` is one of: {', '.join(allowed)}.")
    _decide(call, verdict, user)
    return _go_on_if_all_is_decided(run)


def _decide(call: ToolCall, verdict: Verdict, user: Any) -> None:
    call.decision, call.decided_by, call.decided_at = verdict.decision.value, user, timezone.now()
    call.decided_result = None
    if verdict.decision == Decision.HAPPENED:
        call.decided_result = verdict.result
    elif verdict.decision == Decision.DENIED:
        call.decided_result = f"This call was denied: {verdict.reason or 'no reason was given.'}"
    if verdict.decision in (Decision.RERUN, *APPROVAL_DECISIONS):
        call.status = ToolCallStatus.PLANNED
    if verdict.decision == Decision.APPROVED and verdict.arguments is not None:
        call.edited_arguments = verdict.arguments
        _edit_message(call)
    call.save()
    ToolCallDecision.objects.create(
        tool_call=call,
        decision=call.decision,
        arguments=call.edited_arguments,
        result=call.decided_result,
        reason=verdict.reason,
        decided_by=user,
    )


def _edit_message(call: ToolCall) -> None:
    """The conversation shows what ran, or the model would misread the result; the ledger keeps what it had asked."""
    for message in Message.objects.filter(run_id=call.run_id, role="assistant").exclude(tool_calls=[]):
        for each in message.tool_calls:
            if each["id"] == call.call_id:
                each["arguments"] = call.edited_arguments
                message.save(update_fields=["tool_calls"])


@transaction.atomic
def go_on(*, run_id: uuid.UUID) -> bool:
    """Queue a parked run again, if no call of it waits for a person; False if there is no such run (any more)."""
    session = AgentSession.objects.select_for_update().filter(runs=run_id, deleted_at=None).first()
    run = Run.objects.filter(pk=run_id, status=RunStatus.AWAITING_APPROVAL).first() if session else None
    return run is not None and _go_on_if_all_is_decided(run)


def _go_on_if_all_is_decided(run: Run) -> bool:
    if ToolCall.objects.filter(_UNDECIDED, run=run).exists():
        return False
    run.status, run.dispatched_at = RunStatus.QUEUED, timezone.now()
    run.save(update_fields=["status", "dispatched_at"])
    transaction.on_commit(partial(run_ready.send, Run, run_id=run.pk))
    return True


# --- approvals that nobody gives --------------------------------------------------------------------------------------


def expired_approvals(*, limit: int = 1_000) -> list[uuid.UUID]:
    """Runs with a call whose approval was waited for long enough."""
    expired = ToolCall.objects.filter(
        status=ToolCallStatus.AWAITING, expires_at__lt=Now(), run__status=RunStatus.AWAITING_APPROVAL
    )
    return list(expired.order_by("run_id").values_list("run_id", flat=True).distinct()[:limit])


@transaction.atomic
def expire_approvals(*, run_id: uuid.UUID) -> Told | None:
    """Do what the agent type says with a run's expired approvals; the events of its end, if that ends it.

    Harmless if somebody was faster.
    """
    session = AgentSession.objects.select_for_update().filter(runs=run_id).first()
    run = Run.objects.select_related("session").filter(pk=run_id, status=RunStatus.AWAITING_APPROVAL).first()
    if session is None or run is None:
        return None
    expired = list(ToolCall.objects.filter(run=run, status=ToolCallStatus.AWAITING, expires_at__lt=Now()))
    if not expired:
        return None
    policy = _policy_of(run)
    if policy == OnApprovalExpiry.HALT:
        reason = f"Nobody decided about the call of {expired[0].tool} in time."
        return end_without_worker(run, RunStatus.FAILED, code=APPROVAL_EXPIRED, reason=reason)
    decision = Decision.APPROVED if policy == OnApprovalExpiry.CONTINUE else Decision.DENIED
    for call in expired:
        _decide(call, Verdict(decision, reason="nobody decided about it in time."), None)
    _go_on_if_all_is_decided(run)
    return None


def _policy_of(run: Run) -> str:
    """By the version of the agent type that the run works by."""
    versions = AgentTypeVersion.objects.filter(agent_type=run.session.agent_type_id, version=run.agent_version or 0)
    config = versions.values_list("config", flat=True).first() or {}
    return str(config.get("on_approval_expiry", OnApprovalExpiry.DENY))

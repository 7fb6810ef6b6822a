"""The ledger of tools' effects: what a new worker may repeat, and what it must not.

A call of a tool that is not idempotent is marked as started before its tool is. If the worker is lost then, nobody
knows whether the tool took effect: the call is `unknown`, and never repeated blindly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.utils import timezone

from sessions_app.errors import StaleEpochError
from sessions_app.models import AgentSession, Run, ToolCall, ToolCallStatus
from sessions_app.services.claiming import Claim

_OPEN = (ToolCallStatus.PLANNED, ToolCallStatus.AWAITING, ToolCallStatus.STARTED, ToolCallStatus.UNKNOWN)


@dataclass(frozen=True)
class OpenCall:
    """A call without a result. `is_unknown`: it may have taken effect. `decision` is a person's, if any."""

    call_id: str
    tool: str
    arguments: dict[str, Any]
    idempotency_key: str
    is_unknown: bool
    decision: str
    decided_result: Any
    is_edited: bool


@transaction.atomic
def start_calls(*, claim: Claim, call_ids: Sequence[str]) -> None:
    """Mark calls as started, before their tools are. Raises StaleEpochError, and then no tool may start.

    A decision that led here stays on record by itself; should the worker be lost now, another one is needed.
    """
    _hold(claim)
    calls = ToolCall.objects.filter(run_id=claim.run_id, call_id__in=call_ids)
    calls.update(status=ToolCallStatus.STARTED, started_at=timezone.now(), decision="")
    # What an agent would go on with after an approval is void now: it would start these once more.
    Run.objects.filter(pk=claim.run_id).exclude(agent_state=None).update(agent_state=None)


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
            call.arguments if call.edited_arguments is None else call.edited_arguments,
            call.idempotency_key,
            call.status == ToolCallStatus.UNKNOWN,
            call.decision,
            call.decided_result,
            call.edited_arguments is not None,
        )
        for call in calls.filter(status__in=_OPEN, finished_at=None).order_by("pk")
    ]


def _hold(claim: Claim) -> None:
    if not AgentSession.objects.select_for_update().filter(pk=claim.session_id, epoch=claim.epoch).exists():
        raise StaleEpochError()

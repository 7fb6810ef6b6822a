"""One JSON answer instead of a stream: wait for the run's end, then read what is on record."""

import uuid
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from chat.stream.tail import RunFilter, tail
from monitoring.admission import RETRY_AFTER_SECONDS
from sessions_app import queries
from sessions_app.api.approvals import ApprovalSerializer
from sessions_app.models import Event, Run, RunStatus, ToolCall
from sessions_app.services.accepting import AcceptedTurn
from sessions_app.services.deciding import waiting_calls
from sessions_app.services.waiting import SLOT_TIMEOUT
from sessions_app.threads import in_database_thread

# A run that failed for a limit of the site or its caller; any other is the failure of what stands behind the server.
_STATUSES = {"budget_exceeded": 429, SLOT_TIMEOUT: 503}


@dataclass(frozen=True)
class Answer:
    """A finished run as `stream=false` gives it. `facts` are its events, oldest first."""

    run: Run
    response: str
    facts: list[Event]
    waiting: list[ToolCall] = field(default_factory=list)  # calls that a person has to decide about

    @property
    def status(self) -> int:
        """One that is parked is not at its end."""
        if self.run.status == RunStatus.FAILED:
            return _STATUSES.get(self.run.error_code, 502)
        return 202 if self.waiting or self.run.status == RunStatus.AWAITING_APPROVAL else 200

    @property
    def headers(self) -> dict[str, str]:
        is_busy = self.run.status == RunStatus.FAILED and self.run.error_code == SLOT_TIMEOUT
        return {"Retry-After": str(RETRY_AFTER_SECONDS)} if is_busy else {}

    def as_json(self) -> dict[str, Any]:
        run = self.run
        body: dict[str, Any] = {
            "response": self.response,
            "thought_process": [fact.data["content"] for fact in self.facts if fact.type == "thought"],
            "tool_calls": self._tool_calls(),
            "run_id": str(run.pk),
            "status": run.status,
            "usage": {
                "input_tokens": run.input_tokens,
                "output_tokens": run.output_tokens,
                "cached_tokens": run.cached_tokens,
                "reasoning_tokens": run.reasoning_tokens,
            },
        }
        if self.waiting:
            body["status"] = RunStatus.AWAITING_APPROVAL.value
            body["approvals"] = ApprovalSerializer(self.waiting, many=True).data
        elif run.status == RunStatus.AWAITING_APPROVAL:
            body["budget"] = self.facts[-1].data if self.facts else {}
        if run.status == RunStatus.FAILED:
            body["error"] = {"code": run.error_code, "message": run.error_message}
        return body

    def _tool_calls(self) -> list[dict[str, Any]]:
        """Each call with its result, if there was one."""
        results = {fact.data["tool_call_id"]: fact.data for fact in self.facts if fact.type == "tool_result"}
        calls = [fact.data for fact in self.facts if fact.type == "tool_call"]
        return [{**call, **results.get(call["tool_call_id"], {})} for call in calls]


@in_database_thread
def read_answer(run_id: uuid.UUID) -> Answer:
    run = Run.objects.select_related("session").get(pk=run_id)
    return Answer(run, queries.last_answer(run), queries.facts_of(run), waiting_calls(run.session))


async def wait_for_answer(turn: AcceptedTurn) -> Answer:
    """Wait until the turn's run has ended, however long that takes, or until it waits for a person."""
    mine = RunFilter(str(turn.run_id))  # follows the message into the turn that it steers
    async with aclosing(tail(turn.session_id, turn.after, is_newest=turn.is_next)) as batches:
        async for batch in batches:
            picked = mine.pick(batch)
            if mine.is_over or any(event.type == "approval_required" for event in picked):
                break
    return await read_answer(uuid.UUID(mine.run_id))

"""The data of those events that more than one place tells: one shape for the worker, the tail and the API."""

import uuid
from typing import Any

from sessions_app.cursor import Cursor
from sessions_app.models import Event, Message, Role, Run, RunStatus

TERMINAL_TYPES = frozenset({"done", "error", "cancelled"})


def message(message_id: int, run_id: uuid.UUID, content: str) -> dict[str, Any]:
    """The user's own message, first event of its run."""
    return {"message_id": message_id, "run_id": str(run_id), "role": Role.USER.value, "content": content}


def discard(run_id: uuid.UUID, reason: str, attempt: int, since: Cursor | None) -> dict[str, Any]:
    """A run goes on, or ends, without its last worker: what came behind `since` is void, all that came so far
    if that is None."""
    return {"run_id": str(run_id), "reason": reason, "attempt": attempt, "since": str(since) if since else None}


NO_WORKER = 0  # the position of a run that no worker can take


def waiting(run_id: uuid.UUID, position: int) -> dict[str, Any]:
    """The run waits for a free slot; `position` 1 is next. NO_WORKER: for a worker that offers what it requires."""
    data = {"run_id": str(run_id), "status": "waiting"}
    if position == NO_WORKER:
        return {**data, "reason": "no_worker"}
    return {**data, "reason": "slots", "position": position}


def running(run_id: uuid.UUID) -> dict[str, Any]:
    """The run has waited and is at work now."""
    return {"run_id": str(run_id), "status": RunStatus.RUNNING.value}


def newest_of(run_id: uuid.UUID) -> Cursor | None:
    """The id of a run's newest event on record, but for those that it waits: text may be void that came before them."""
    said = Event.objects.filter(run_id=run_id).exclude(type="status", data__status="waiting")
    newest = said.order_by("-epoch", "-seq").values_list("epoch", "seq").first()
    return Cursor(*newest) if newest else None


_ORDINARY_ENDS = frozenset({"", "stop", "tool_calls"})


def done(
    run_id: uuid.UUID, usage: dict[str, int], *, finish_reason: str = "", steered_into: uuid.UUID | None = None
) -> dict[str, Any]:
    """`finish_reason` is the model's, and told if the answer may not be whole: length, content_filter, refusal."""
    data: dict[str, Any] = {"run_id": str(run_id), "usage": usage, "status": RunStatus.SUCCEEDED.value}
    if finish_reason not in _ORDINARY_ENDS:
        data["finish_reason"] = finish_reason
    return {**data, "steered_into": str(steered_into)} if steered_into else data


def cancelled(
    run_id: uuid.UUID, usage: dict[str, int] | None = None, *, is_rolled_back: bool = False
) -> dict[str, Any]:
    data: dict[str, Any] = {"run_id": str(run_id), "status": RunStatus.CANCELLED.value, "usage": usage or {}}
    return {**data, "rolled_back": True} if is_rolled_back else data


def failed(run_id: uuid.UUID, code: str, message: str, usage: dict[str, int] | None = None) -> dict[str, Any]:
    return {
        "run_id": str(run_id),
        "status": RunStatus.FAILED.value,
        "code": code,
        "message": message,
        "usage": usage or {},
    }


def summary(summary: Any) -> dict[str, Any]:
    """A summary stands in the prompt for older turns; `summary` is one of chat.context.summaries."""
    return {
        "summary_id": summary.id,
        "level": summary.level.label,
        "first_turn": summary.first_turn,
        "last_turn": summary.last_turn,
        "message_count": summary.message_count,
        "tokens_before": summary.tokens_before,
        "tokens_after": summary.tokens,
        "text": summary.text,
    }


def usage_of(run: Run) -> dict[str, int]:
    return {
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "cached_tokens": run.cached_tokens,
        "reasoning_tokens": run.reasoning_tokens,
    }


def cancelled_run(run: Run, entry: Message) -> list[tuple[str, dict[str, Any], uuid.UUID]]:
    """(type, data, run) of the two events of a run that was cancelled while no worker had it."""
    end = ("cancelled", cancelled(run.pk, usage_of(run), is_rolled_back=run.is_rolled_back), run.pk)
    if run.started_at is None:
        is_told = run.waiting_position is not None
        return [end] if is_told else [("message", message(entry.pk, run.pk, entry.content), run.pk), end]
    return [("discard", discard(run.pk, "cancelled", run.attempt, newest_of(run.pk)), run.pk), end]

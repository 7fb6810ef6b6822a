"""Leases, take-over and the ledger of effects, at the level of the record."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from sessions_app.errors import CallNotOpenError, CancelRequestedError, StaleEpochError
from sessions_app.models import AgentSession, AgentType, Decision, Event, Message, Run, RunStatus, ToolCall
from sessions_app.services.accepting import accept_turn
from sessions_app.services.cancelling import request_cancel
from sessions_app.services.claiming import Claim, claim_run, give_back, renew_leases
from sessions_app.services.deciding import Verdict, settle_call
from sessions_app.services.effects import start_calls, take_over_calls
from sessions_app.services.recording import NewCall, NewEvent, NewMessage, Step, finish_run, park_run, record_step
from sessions_app.services.recovering import overdue_runs, recover_run
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db


@pytest.fixture
def session(user: Any) -> AgentSession:
    return create_session(owner=user, agent_type="demo")


def claimed(session: AgentSession) -> Claim:
    turn = accept_turn(user=session.owner, session_id=session.pk, message="hi")
    return claim_again(turn.run_id)


def claim_again(run_id: uuid.UUID) -> Claim:
    claim = claim_run(run_id=run_id, worker="w")
    assert claim is not None
    return claim


def let_leases_run_out() -> None:
    Run.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))


def plan(claim: Claim, *, is_idempotent: bool = False) -> None:
    call = {"id": "c1", "name": "charge", "arguments": {"n": 1}}
    step = Step([NewMessage(1, "assistant", tool_calls=[call])], [NewEvent(2, 1, "tool_call", {})])
    step.calls.append(NewCall("c1", "charge", {"n": 1}, "key", is_idempotent))
    record_step(claim=claim, step=step)


def test_a_lease_is_renewed_only_by_its_holder(session: AgentSession) -> None:
    claim = claimed(session)
    let_leases_run_out()
    assert overdue_runs() == [claim.run_id]
    renewed = renew_leases(claims=[claim])
    assert [(run.run_id, run.is_cancel_requested, run.is_steered) for run in renewed] == [(claim.run_id, False, False)]
    assert overdue_runs() == []
    let_leases_run_out()
    recovered = recover_run(run_id=claim.run_id)
    assert recovered is not None
    assert recovered.told is None
    assert renew_leases(claims=[claim]) == []
    claim_again(claim.run_id)
    assert renew_leases(claims=[claim]) == []


def test_a_recovered_runs_old_worker_can_write_nothing(session: AgentSession) -> None:
    claim = claimed(session)
    let_leases_run_out()
    recover_run(run_id=claim.run_id)
    for attempt in (record_step, lambda **end: finish_run(status=RunStatus.SUCCEEDED, **end), park_run):
        with pytest.raises(StaleEpochError):
            attempt(claim=claim, step=Step(events=[NewEvent(1, 1, "done", {})]))
    with pytest.raises(StaleEpochError):
        start_calls(claim=claim, call_ids=["c1"])
    assert give_back(claim=claim) is False
    assert not Event.objects.exists()


def test_attempts_are_counted_and_bounded_by_the_agent_type(session: AgentSession) -> None:
    AgentType.objects.filter(name="demo").update(max_attempts=2)
    claim = claimed(session)
    let_leases_run_out()
    recover_run(run_id=claim.run_id)
    second = claim_again(claim.run_id)
    assert second.attempt == 2
    let_leases_run_out()
    recovered = recover_run(run_id=claim.run_id)
    assert recovered is not None
    assert recovered.told is not None
    assert [event.type for event in recovered.told.events] == ["discard", "error"]
    run = Run.objects.get()
    assert (run.status, run.error_code) == ("failed", "worker_lost")
    assert "2 attempts" in run.error_message


def test_what_is_given_back_costs_no_attempt(session: AgentSession) -> None:
    claim = claimed(session)
    for _ in range(5):
        assert give_back(claim=claim)
        assert not give_back(claim=claim)
        claim = claim_again(claim.run_id)
    assert claim.attempt == 1


def test_a_lost_run_that_was_to_be_cancelled_is_cancelled(session: AgentSession) -> None:
    claim = claimed(session)
    request_cancel(session=session)
    let_leases_run_out()
    recovered = recover_run(run_id=claim.run_id)
    assert recovered is not None
    assert recovered.told is not None
    assert [event.type for event in recovered.told.events] == ["discard", "cancelled"]
    assert Run.objects.get().status == RunStatus.CANCELLED


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_of_many_sweepers_one_recovers_a_run(user: Any) -> None:
    AgentType.objects.get_or_create(name="demo", defaults={"runtime": "demo", "tools": []})
    claim = claimed(create_session(owner=user, agent_type="demo"))
    let_leases_run_out()

    def sweep(_: int) -> Any:
        try:
            return recover_run(run_id=claim.run_id)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        assert len([found for found in pool.map(sweep, range(16)) if found]) == 1
    assert AgentSession.objects.get().epoch == 2
    again = claim_again(claim.run_id)
    assert (claim.is_resumed, again.is_resumed, again.epoch) == (False, True, 3)


@pytest.mark.parametrize("is_idempotent", [True, False])
def test_only_a_started_call_that_is_not_idempotent_is_unknown(session: AgentSession, is_idempotent: bool) -> None:
    claim = claimed(session)
    plan(claim, is_idempotent=is_idempotent)
    assert [call.is_unknown for call in take_over_calls(claim=claim)] == [False]
    start_calls(claim=claim, call_ids=["c1"])
    (call,) = take_over_calls(claim=claim)
    assert (call.is_unknown, call.idempotency_key, call.arguments) == (not is_idempotent, "key", {"n": 1})


def test_a_call_with_a_result_is_not_open(session: AgentSession) -> None:
    claim = claimed(session)
    plan(claim)
    start_calls(claim=claim, call_ids=["c1"])
    record_step(claim=claim, step=Step([NewMessage(2, "tool", "ok", tool_call_id="c1", tool_name="charge")]))
    assert take_over_calls(claim=claim) == []
    assert ToolCall.objects.get().status == "finished"


def test_a_parked_run_goes_on_when_its_last_call_is_settled(session: AgentSession, user: Any) -> None:
    claim = claimed(session)
    plan(claim)
    start_calls(claim=claim, call_ids=["c1"])
    take_over_calls(claim=claim)
    park_run(claim=claim, step=Step(events=[NewEvent(3, 3, "approval_required", {})]))
    run = Run.objects.get()
    assert (run.status, run.attempt, run.finished_at) == ("awaiting_approval", 0, None)
    let_leases_run_out()
    assert overdue_runs() == []  # a person may take days
    assert settle_call(run=run, call_id="c1", verdict=Verdict(Decision.HAPPENED, result={"paid": 1}), user=user)
    with pytest.raises(CallNotOpenError):
        settle_call(run=run, call_id="c1", verdict=Verdict(Decision.RERUN), user=user)
    again = claim_again(run.pk)
    (call,) = take_over_calls(claim=again)
    assert (call.decision, call.decided_result) == ("happened", {"paid": 1})
    record_step(claim=again, step=Step([NewMessage(2, "tool", "x", tool_call_id="c1", tool_name="charge")]))
    assert ToolCall.objects.get().status == "finished"


def test_a_run_that_is_to_stop_does_not_wait_for_a_person(session: AgentSession) -> None:
    """The cancel came after its worker had stopped to listen: nobody would end it."""
    claim = claimed(session)
    plan(claim)
    request_cancel(session=session)
    with pytest.raises(CancelRequestedError):
        park_run(claim=claim, step=Step(), awaiting=["c1"])
    assert Run.objects.get().status == "running"
    assert ToolCall.objects.get().status == "planned"


def test_the_end_of_a_run_settles_the_ledger(session: AgentSession) -> None:
    claim = claimed(session)
    plan(claim)
    start_calls(claim=claim, call_ids=["c1"])
    end = Step(events=[NewEvent(3, 3, "cancelled", {})])
    finish_run(claim=claim, status=RunStatus.CANCELLED, step=end, has_open_calls=True)
    assert ToolCall.objects.get().status == "unknown"


def test_a_rolled_back_turn_leaves_the_history(session: AgentSession) -> None:
    claim = claimed(session)
    request_cancel(session=session, is_rollback=True)
    end = Step([NewMessage(1, "assistant", "half", is_partial=True)], [NewEvent(1, 1, "cancelled", {})])
    finish_run(claim=claim, status=RunStatus.CANCELLED, step=end)
    assert not Message.objects.exists()
    session.refresh_from_db()
    assert session.message_count == 0

"""Claims, the epoch and its fence: races are settled by Postgres."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from sessions_app.errors import QueueFullError, StaleEpochError
from sessions_app.models import AgentSession, AgentType, Event, Message, Run, RunStatus
from sessions_app.services.accepting import accept_turn
from sessions_app.services.cancelling import request_cancel
from sessions_app.services.claiming import claim_run, claim_runs
from sessions_app.services.dispatching import take_next, take_undispatched
from sessions_app.services.recording import NewEvent, NewMessage, Step, Usage, finish_run, record_step
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db


@pytest.fixture
def session(user: Any) -> AgentSession:
    return create_session(owner=user, agent_type="demo")


def accept(session: AgentSession, message: str = "hi") -> uuid.UUID:
    return accept_turn(user=session.owner, session_id=session.pk, message=message).run_id


def terminal(seq: int = 1) -> Step:
    return Step(events=[NewEvent(seq, seq, "done", {})])


def test_a_claim_takes_the_next_epoch(session: AgentSession) -> None:
    claim = claim_run(run_id=accept(session), worker="w")
    assert claim is not None
    session.refresh_from_db()
    assert (claim.epoch, session.epoch, claim.attempt) == (1, 1, 1)
    assert claim.agent.tools == ["calculator", "clock", "search_conversation", "save_note"]


def test_a_run_is_claimed_once(session: AgentSession) -> None:
    run_id = accept(session)
    assert claim_run(run_id=run_id, worker="a") is not None
    assert claim_run(run_id=run_id, worker="b") is None
    assert claim_run(run_id=uuid.uuid4(), worker="b") is None


def test_a_run_waits_for_those_before_it(session: AgentSession) -> None:
    first, second = accept(session), accept(session)
    assert claim_run(run_id=second, worker="w") is None
    claim = claim_run(run_id=first, worker="w")
    assert claim_run(run_id=second, worker="w") is None
    assert claim is not None
    assert take_next(session.pk) is None
    finish_run(claim=claim, status=RunStatus.SUCCEEDED, step=terminal())
    found = take_next(session.pk)
    assert found is not None
    assert found[0] == second
    assert take_next(session.pk) is None  # it is on its way
    assert claim_run(run_id=second, worker="w") is not None


def test_a_message_that_comes_right_after_a_turn_is_dispatched_once(session: AgentSession) -> None:
    claim = claim_run(run_id=accept(session), worker="w")
    assert claim is not None
    finish_run(claim=claim, status=RunStatus.SUCCEEDED, step=terminal())
    turn = accept_turn(user=session.owner, session_id=session.pk, message="and now?")
    assert turn.is_first  # so the gateway sends it; the worker of the turn before, which looks only now, must not
    assert take_next(session.pk) is None


def test_several_runs_are_claimed_together(user: Any) -> None:
    sessions = [create_session(owner=user, agent_type="demo") for _ in range(3)]
    first, second, taken = (accept(session) for session in sessions)
    behind_first = accept(sessions[0])
    claim_run(run_id=taken, worker="other")
    claims = claim_runs(run_ids=[second, uuid.uuid4(), behind_first, taken, first, second], worker="w")
    assert [claim.run_id for claim in claims] == [second, first]
    assert [claim.session_id for claim in claims] == [sessions[1].pk, sessions[0].pk]
    assert [(claim.epoch, claim.attempt, claim.is_resumed) for claim in claims] == [(1, 1, False)] * 2
    assert claim_runs(run_ids=[first, second], worker="w") == []


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_of_many_who_claim_the_same_together_each_run_has_one(user: Any) -> None:
    run_ids = [accept(create_session(owner=user, agent_type="demo")) for _ in range(12)]

    def claim(number: int) -> list[uuid.UUID]:
        try:
            mine = (
                run_ids[number:] + run_ids[:number]
            )  # each in an order of its own: none may wait for another for ever
            return [claim.run_id for claim in claim_runs(run_ids=mine, worker=str(number))]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        claimed = [run_id for of_one in pool.map(claim, range(12)) for run_id in of_one]
    assert sorted(claimed) == sorted(run_ids)


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_of_many_who_claim_at_once_one_gets_it(user: Any) -> None:
    session = create_session(owner=user, agent_type="demo")
    run_id = accept(session)

    def claim(number: int) -> Any:
        try:
            return claim_run(run_id=run_id, worker=str(number))
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        claims = [claim for claim in pool.map(claim, range(16)) if claim]
    assert [claim.epoch for claim in claims] == [1]


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_the_queues_bound_holds_when_many_send_at_once(user: Any) -> None:
    session = create_session(owner=user, agent_type="demo")

    def send(_: int) -> bool:
        try:
            accept(session)
        except QueueFullError:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(24))) == settings.MAX_QUEUED_RUNS_PER_SESSION


def test_a_stale_writer_writes_nothing(session: AgentSession) -> None:
    claim = claim_run(run_id=accept(session), worker="w")
    assert claim is not None
    AgentSession.objects.update(epoch=2)  # somebody has claimed since
    step = Step([NewMessage(1, "assistant", "x")], [NewEvent(1, 1, "response", {})], [Usage(1, 1)])
    with pytest.raises(StaleEpochError):
        record_step(claim=claim, step=step)
    with pytest.raises(StaleEpochError):
        finish_run(claim=claim, status=RunStatus.SUCCEEDED, step=terminal())
    assert (Event.objects.count(), Message.objects.count()) == (0, 1)
    assert Run.objects.get().status == RunStatus.RUNNING


def test_steps_and_end_add_up(session: AgentSession) -> None:
    claim = claim_run(run_id=accept(session), worker="w")
    assert claim is not None
    call = {"id": "c", "name": "clock", "arguments": {"a": "\\u0000 ä"}}
    record_step(
        claim=claim,
        step=Step(
            [NewMessage(1, "assistant", "", "why", [call], token_count=7)],
            [NewEvent(3, 1, "thought", {"content": "why"})],
            [Usage(10, 5, 2, 1, "m")],
        ),
    )
    end = Step([NewMessage(2, "assistant", "done")], [NewEvent(4, 4, "done", {})], [Usage(20, 6, is_estimated=True)])
    finish_run(claim=claim, status=RunStatus.SUCCEEDED, step=end)
    run = Run.objects.get()
    assert (run.status, run.input_tokens, run.output_tokens, run.tool_call_count) == ("succeeded", 30, 11, 1)
    assert (run.terminal_cursor, run.finished_at is not None) == ("1-4", True)
    session.refresh_from_db()
    assert (session.message_count, session.input_tokens, session.output_tokens) == (3, 30, 11)
    assert Message.objects.get(position=1).tool_calls == [call]


def test_a_run_has_one_terminal_event(session: AgentSession) -> None:
    claim = claim_run(run_id=accept(session), worker="w")
    assert claim is not None
    finish_run(claim=claim, status=RunStatus.SUCCEEDED, step=terminal())
    with pytest.raises(Exception, match="event_one_terminal_per_run"):
        finish_run(claim=claim, status=RunStatus.SUCCEEDED, step=terminal(2))


def test_cancelling_what_waits_tells_it_under_an_epoch_of_its_own(session: AgentSession) -> None:
    runs = [accept(session), accept(session)]
    result = request_cancel(session=session)
    assert [run.pk for run in result.cancelled] == runs
    assert result.told is not None
    assert [event.type for event in result.told.events] == ["message", "cancelled"] * 2
    assert set(Run.objects.values_list("status", "terminal_cursor")) == {("cancelled", "1-2"), ("cancelled", "1-4")}
    assert request_cancel(session=session).told is None


def test_what_no_broker_took_is_dispatched_again(session: AgentSession) -> None:
    lost, waiting = accept(session), accept(session)
    assert take_undispatched() == []
    Run.objects.filter(pk__in=[lost, waiting]).update(dispatched_at=None)
    assert take_undispatched() == [lost]  # the other is not first in its session
    assert take_undispatched() == []


def test_what_needs_a_special_worker_is_dispatched_again_when_it_is_old(session: AgentSession) -> None:
    AgentType.objects.filter(pk=session.agent_type_id).update(required_capabilities=["gpu"])
    run_id = accept(session)
    age = timedelta(seconds=settings.REDISPATCH_SECONDS)
    Run.objects.filter(pk=run_id).update(dispatched_at=timezone.now() - age / 2)
    assert take_undispatched(older_than_seconds=0.0) == []  # the queue that is empty is not its own
    Run.objects.filter(pk=run_id).update(dispatched_at=timezone.now() - age)
    assert take_undispatched(older_than_seconds=0.0) == [run_id]

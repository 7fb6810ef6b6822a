"""How a message is accepted: what counts first when there are several reasons against it, and behind what it waits."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from sessions_app.errors import QueueFullError, SessionBusyError, SessionExpiredError, SessionTimeoutError
from sessions_app.models import AgentSession, Message, RunStatus
from sessions_app.services.accepting import AcceptedTurn, accept_turn
from sessions_app.services.cancelling import request_cancel
from sessions_app.services.claiming import Claim, claim_run
from sessions_app.services.dispatching import take_next, take_undispatched
from sessions_app.services.forking import retry_run
from sessions_app.services.recording import NewEvent, Step, finish_run, park_run
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db


@pytest.fixture
def session(user: Any) -> AgentSession:
    return create_session(owner=user, agent_type="demo")


def accept(session: AgentSession, message: str = "hi", **options: Any) -> AcceptedTurn:
    return accept_turn(user=session.owner, session_id=session.pk, message=message, **options)


def claim(turn: AcceptedTurn) -> Claim:
    found = claim_run(run_id=turn.run_id, worker="w")
    assert found is not None
    return found


def finish(claim: Claim, status: RunStatus = RunStatus.SUCCEEDED) -> None:
    type = "done" if status == RunStatus.SUCCEEDED else "error"
    finish_run(claim=claim, status=status, step=Step(events=[NewEvent(1, 1, type, {})]))


def is_next(session: AgentSession) -> Any:
    """The run that now goes to a worker."""
    found = take_next(session.pk)
    return found and found[0]


def expire(session: AgentSession) -> None:
    AgentSession.objects.filter(pk=session.pk).update(expires_at=timezone.now() - timedelta(seconds=1))


def use_up_its_time(session: AgentSession) -> None:
    AgentSession.objects.filter(pk=session.pk).update(worked_ms=10_000_000)


@pytest.fixture(autouse=True)
def limits(settings: Any) -> None:
    settings.MAX_SESSION_DURATION_SECONDS, settings.MAX_QUEUED_RUNS_PER_SESSION = 1_000, 1


def test_an_expired_session_takes_nothing_not_even_what_it_had_taken(session: AgentSession) -> None:
    accept(session, idempotency_key="k")
    use_up_its_time(session)
    expire(session)
    with pytest.raises(SessionExpiredError):
        accept(session, idempotency_key="k")


def test_a_repeated_message_is_known_however_the_session_stands(session: AgentSession) -> None:
    turn = accept(session, idempotency_key="k")
    use_up_its_time(session)
    for on_busy in ("reject", "interrupt", "enqueue"):
        again = accept(session, idempotency_key="k", on_busy=on_busy)
        assert (again.run_id, again.is_repeated, again.told) == (turn.run_id, True, None)


def test_a_session_that_is_out_of_time_stops_nothing_for_a_message(session: AgentSession) -> None:
    waiting = accept(session)
    use_up_its_time(session)
    for on_busy in ("reject", "interrupt"):
        with pytest.raises(SessionTimeoutError):
            accept(session, on_busy=on_busy)
    assert claim(waiting).run_id == waiting.run_id


def test_a_full_queue_makes_way_for_what_interrupts_and_for_nothing_else(session: AgentSession) -> None:
    accept(session)
    with pytest.raises(QueueFullError):
        accept(session, on_busy="enqueue")
    with pytest.raises(SessionBusyError):
        accept(session, on_busy="reject")
    with pytest.raises(QueueFullError):
        accept(session, on_busy="steer")
    assert Message.objects.count() == 1
    turn = accept(session, on_busy="interrupt")
    assert (turn.is_first, turn.told is not None) == (True, True)


def test_a_message_waits_behind_a_run_that_waits_for_a_person(session: AgentSession) -> None:
    asking = claim(accept(session))
    park_run(claim=asking, step=Step(events=[NewEvent(1, 1, "approval_required", {})]))
    behind = accept(session)
    assert (behind.is_next, behind.is_first) == (False, False)
    assert (is_next(session), take_undispatched()) == (None, [])
    request_cancel(session=session, run_id=asking.run_id)
    assert is_next(session) == behind.run_id


def test_a_retry_waits_for_what_is_at_work(session: AgentSession, user: Any) -> None:
    failed = accept(session)
    finish(claim(failed), RunStatus.FAILED)
    at_work = claim(accept(session))
    session.refresh_from_db()
    retried = retry_run(user=user, run=session.runs.get(pk=failed.run_id))
    assert (retried.is_next, retried.is_first) == (False, False)
    assert (is_next(session), take_undispatched()) == (None, [])
    finish(at_work)
    assert is_next(session) == retried.run_id


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_of_many_who_send_the_next_one_on_at_once_one_does(user: Any) -> None:
    session = create_session(owner=user, agent_type="demo")
    first, second = claim(accept(session)), accept(session)
    finish(first)

    def take(_: int) -> Any:
        try:
            return is_next(session)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        taken = [run_id for run_id in pool.map(take, range(16)) if run_id]
    assert taken == [second.run_id]

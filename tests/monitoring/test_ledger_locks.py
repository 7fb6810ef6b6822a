"""No two transactions of the ledger wait for each other, whatever they have in common."""

import threading
from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction

from monitoring.ledger import ModelCall, charge_lost, reserve
from monitoring.models import Account, Measure, Period, Quota, Reservation, Scope
from sessions_app.models import AgentSession, Run, RunStatus
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)


def lost_call(owner: User) -> AgentSession:
    """The session of a call whose run has ended without it."""
    session = create_session(owner=owner, agent_type="demo")
    run = Run.objects.create(session=session, turn=1, status=RunStatus.FAILED)
    reserve(ModelCall(session.pk, ["m"], 10, 0, 0, run_id=run.pk, epoch=0))
    return session


def wait_for_blocked() -> None:
    """Until another transaction waits for one of this connection's locks."""
    pause = threading.Event()
    with connection.cursor() as cursor:
        for _ in range(1_000):
            # Not of pg_stat_activity, of which a transaction sees only how it was at first.
            cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")
            if cursor.fetchone():
                return
            pause.wait(0.01)
    raise TimeoutError


def test_lost_calls_of_several_sessions_are_charged_beside_their_other_calls(user: User) -> None:
    Quota.objects.all().delete()
    for name, scope in (("each-session", Scope.SESSION), ("each-user", Scope.USER)):  # locked in this order
        Quota.objects.create(name=name, scope=scope, measure=Measure.TOKENS, period=Period.TOTAL, limit=Decimal(1_000))
    _, second = lost_call(user), lost_call(user)

    def sweep() -> None:
        charge_lost()
        connection.close()

    sweeper = threading.Thread(target=sweep)
    with transaction.atomic():  # a call of the second session, between its two locks
        Account.objects.select_for_update().get(subject=f"session:{second.pk}")
        sweeper.start()
        wait_for_blocked()
        Account.objects.select_for_update().get(subject=f"user:{user.pk}")
    sweeper.join()
    assert not Reservation.objects.exists()
    assert Account.objects.get(subject=f"user:{user.pk}").used == 20

"""Many spend at once, are lost, and try again: no budget is exceeded by a token, and the ledger is what was used."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.db.models import F

from monitoring import prices
from monitoring.ledger import charge_lost, differences
from monitoring.models import Account, Measure, Period, Price, Quota, Reservation, Scope
from sessions_app.models import AgentSession, Run, RunStatus, UsageRecord
from sessions_app.services.sessions import create_session
from tests.fakes.processes import PROJECT

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)

PROCESSES, THREADS, CALLS = 3, 8, 25

# Whatever writes an account, and whenever: the database itself refuses to exceed the limit.
_GUARD = """
CREATE FUNCTION no_overshoot() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    units bigint := (
        SELECT monitoring_limit_units(q.measure, q."limit") FROM monitoring_quota q WHERE q.id = NEW.quota_id);
BEGIN
    IF NEW.used + NEW.reserved > units + NEW.extra OR NEW.reserved < 0 THEN
        RAISE EXCEPTION 'overshoot: % + % of %', NEW.used, NEW.reserved, units;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER no_overshoot BEFORE INSERT OR UPDATE ON monitoring_account FOR EACH ROW EXECUTE FUNCTION no_overshoot();
"""


@pytest.fixture
def guarded() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(_GUARD)
        yield
        cursor.execute("DROP TRIGGER no_overshoot ON monitoring_account; DROP FUNCTION no_overshoot")


@pytest.fixture
def sessions() -> list[AgentSession]:
    """One for each thread, of three owners, two of whom are in a group; budgets that about half of all calls fit in."""
    Quota.objects.all().delete()
    prices.forget()
    owners = [User.objects.create_user(f"spender-{number}") for number in range(3)]
    group = Group.objects.create(name="spenders")
    group.user_set.add(*owners[:2])
    Price.objects.create(model="small", input_price=Decimal(1), output_price=Decimal(4))
    Price.objects.create(model="large", input_price=Decimal(10), output_price=Decimal("30.5"))
    budgets: list[dict[str, Any]] = [
        {"name": "site", "scope": Scope.SITE, "limit": 120_000, "period": Period.MONTH},
        {"name": "site-cost", "scope": Scope.SITE, "limit": "1.2", "measure": Measure.COST, "period": Period.DAY},
        {"name": "each-user", "scope": Scope.USER, "limit": 50_000, "period": Period.HOUR},
        {"name": "one-user", "scope": Scope.USER, "user": owners[2], "limit": 30_000},
        {"name": "group", "scope": Scope.GROUP, "group": group, "limit": 80_000},
        {"name": "each-session", "scope": Scope.SESSION, "limit": 6_000},
        {"name": "each-run", "scope": Scope.RUN, "limit": 900},
        {"name": "demo", "scope": Scope.AGENT_TYPE, "limit": 110_000},
    ]
    for fields in budgets:
        Quota.objects.create(**{"measure": Measure.TOKENS, "period": Period.TOTAL, **fields})
    return [create_session(owner=owners[number % 3], agent_type="demo") for number in range(PROCESSES * THREADS)]


def start(number: int, sessions: list[AgentSession]) -> "subprocess.Popen[bytes]":
    url = os.environ["DATABASE_URL"].replace("/agentsite?", f"/{connection.settings_dict['NAME']}?")
    own = [str(session.pk) for session in sessions[number * THREADS : (number + 1) * THREADS]]
    argv = [sys.executable, "-m", "tests.monitoring.spending", str(number), str(CALLS), *own]
    return subprocess.Popen(argv, cwd=PROJECT, env={**os.environ, "DATABASE_URL": url})


def recover(epochs: int) -> None:
    """The sweeper's part: every run that is at work gets another writer."""
    Run.objects.filter(status=RunStatus.RUNNING).update(epoch=F("epoch") + epochs)
    charge_lost()


def test_no_budget_is_exceeded_and_nothing_leaks(guarded: None, sessions: list[AgentSession]) -> None:
    processes = [start(number, sessions) for number in range(PROCESSES)]
    stop = threading.Event()
    sweeper = threading.Thread(target=_sweep_until, args=(stop,))
    sweeper.start()
    try:
        _wait_for_records(60)
        processes[0].send_signal(signal.SIGKILL)
        assert [process.wait(100) for process in processes] == [-signal.SIGKILL, 0, 0]
    finally:
        stop.set()
        sweeper.join()
        for process in processes:
            process.kill()
    recover(1_000)

    assert not Reservation.objects.exists()
    assert not Account.objects.exclude(reserved=0).exists()
    assert differences() == []
    lost = UsageRecord.objects.filter(purpose="lost").count()
    assert lost > THREADS
    full = [account for account in Account.objects.select_related("quota") if account.used > 0.9 * account.limit]
    assert {account.quota.name for account in full} >= {"each-session"}, "the budgets were under pressure"


def _sweep_until(stop: threading.Event) -> None:
    """Two sweepers may run at once with the workers' own."""
    while not stop.wait(0.02):
        charge_lost()
    connection.close()


def _wait_for_records(count: int) -> None:
    waiting = threading.Event()
    for _ in range(3_000):
        if UsageRecord.objects.count() >= count:
            return
        waiting.wait(0.02)
    raise TimeoutError

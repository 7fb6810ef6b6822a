"""An update meets rows of the version before."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from sessions_app.models import Run, RunStatus
from sessions_app.services.accepting import accept_turn
from sessions_app.services.dispatching import take_next
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)


def migrate(name: str) -> None:
    MigrationExecutor(connection).migrate([("sessions_app", name)])


@pytest.fixture
def newest() -> Iterator[str]:
    """The name of the newest migration, which stands at the end too."""
    name = max(name for app, name in MigrationExecutor(connection).loader.disk_migrations if app == "sessions_app")
    yield name
    migrate(name)


def test_what_waits_behind_another_run_is_sent_on_after_the_update(user: Any, newest: str) -> None:
    sessions = [create_session(owner=user, agent_type="demo") for _ in range(3)]
    turns = [accept_turn(user=user, session_id=session.pk, message="hi") for session in sessions * 2]
    Run.objects.filter(pk=turns[1].run_id).update(status=RunStatus.AWAITING_APPROVAL)
    Run.objects.filter(pk=turns[2].run_id).update(status=RunStatus.FAILED)
    migrate("0007_token_rate")
    with connection.cursor() as cursor:  # then, every run counted as dispatched
        cursor.execute("UPDATE sessions_app_run SET dispatched_at = created_at")
    migrate(newest)
    waiting = set(Run.objects.filter(dispatched_at=None).values_list("pk", flat=True))
    assert waiting == {turns[3].run_id, turns[4].run_id}
    Run.objects.filter(pk=turns[1].run_id).update(status=RunStatus.SUCCEEDED)
    found = take_next(sessions[1].pk)
    assert found is not None
    assert found[0] == turns[4].run_id

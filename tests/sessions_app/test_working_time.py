"""What counts as a session's working time, and who may give it again."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from sessions_app.errors import SessionTimeoutError, StaleEpochError
from sessions_app.models import AgentSession, Run, RunStatus
from sessions_app.services.accepting import accept_turn
from sessions_app.services.claiming import Claim, claim_run, give_back
from sessions_app.services.forking import retry_run
from sessions_app.services.recording import NewEvent, Step, finish_run, park_run, record_step
from sessions_app.services.recovering import recover_run
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db
LIST = reverse("admin:sessions_app_agentsession_changelist")


@pytest.fixture
def session(user: Any) -> AgentSession:
    return create_session(owner=user, agent_type="demo")


def claim_of(run_id: uuid.UUID, *, ago: float = 0.0) -> Claim:
    """A claim that was made some seconds ago."""
    claim = claim_run(run_id=run_id, worker="w")
    assert claim is not None
    Run.objects.filter(pk=run_id).update(claimed_at=timezone.now() - timedelta(seconds=ago))
    return claim


def accepted(session: AgentSession) -> uuid.UUID:
    return accept_turn(user=session.owner, session_id=session.pk, message="hi").run_id


def seconds(session: AgentSession) -> int:
    session.refresh_from_db()
    return round(session.worked_seconds)


def end() -> Step:
    return Step(events=[NewEvent(9, 9, "done", {})])


def test_each_attempt_counts_from_its_claim_to_its_end(session: AgentSession) -> None:
    run_id = accepted(session)
    claim = claim_of(run_id, ago=10)
    assert claim.worked_ms == 0
    record_step(claim=claim, step=Step())
    assert seconds(session) == 0  # a step is not the end
    assert give_back(claim=claim)
    assert not give_back(claim=claim)
    assert seconds(session) == 10
    claim = claim_of(run_id, ago=20)
    assert round(claim.worked_ms, -3) == 10_000
    finish_run(claim=claim, status=RunStatus.SUCCEEDED, step=end())
    assert seconds(session) == 30


def test_a_parked_run_is_not_at_work(session: AgentSession) -> None:
    run_id = accepted(session)
    park_run(claim=claim_of(run_id, ago=5), step=Step())
    Run.objects.update(claimed_at=timezone.now() - timedelta(days=3), status=RunStatus.QUEUED)
    assert seconds(session) == 5
    finish_run(claim=claim_of(run_id, ago=1), status=RunStatus.SUCCEEDED, step=end())
    assert seconds(session) == 6


def test_a_lost_attempt_counts_to_the_last_sign_of_its_worker(session: AgentSession, settings: Any) -> None:
    run_id = accepted(session)
    claim = claim_of(run_id, ago=100)
    renewed = timezone.now() - timedelta(seconds=40)
    Run.objects.update(lease_expires_at=renewed + timedelta(seconds=settings.RUN_LEASE_SECONDS))
    assert recover_run(run_id=run_id) is not None
    assert recover_run(run_id=run_id) is None
    assert seconds(session) == 60
    assert give_back(claim=claim) is False
    with pytest.raises(StaleEpochError):
        finish_run(claim=claim, status=RunStatus.SUCCEEDED, step=end())
    assert seconds(session) == 60


def test_a_session_without_time_takes_no_message(session: AgentSession, user: Any, settings: Any) -> None:
    failed = accepted(session)
    finish_run(claim=claim_of(failed), status=RunStatus.FAILED, step=end())
    AgentSession.objects.update(worked_ms=settings.MAX_SESSION_DURATION_SECONDS * 1_000)
    with pytest.raises(SessionTimeoutError):
        accepted(session)
    with pytest.raises(SessionTimeoutError):
        retry_run(user=user, run=Run.objects.get(pk=failed))
    settings.MAX_SESSION_DURATION_SECONDS = 0
    assert accepted(session)


def test_staff_gives_it_time_again_and_it_is_on_record(session: AgentSession, admin_client: Client) -> None:
    AgentSession.objects.update(worked_ms=3_600_000)
    form = {"action": "reset_working_time", "_selected_action": [str(session.pk)]}
    page = admin_client.post(LIST, form, follow=True)
    assert "as long as new sessions" in page.content.decode()
    assert seconds(session) == 0
    entry = LogEntry.objects.get(object_id=str(session.pk))
    assert "3,600.0 s of 3,600 s" in entry.change_message
    shown = admin_client.get(reverse("admin:sessions_app_agentsession_change", args=[session.pk]))
    assert "0.0 s of 3,600 s" in shown.content.decode()


def test_who_may_only_look_may_not_give_it(session: AgentSession, client: Client) -> None:
    looker = User.objects.create_user("looker", is_staff=True)
    looker.user_permissions.add(Permission.objects.get(codename="view_agentsession"))
    client.force_login(looker)
    AgentSession.objects.update(worked_ms=3_600_000)
    form = {"action": "reset_working_time", "_selected_action": [str(session.pk)]}
    assert client.post(LIST, form, follow=True).status_code in (200, 403)
    assert seconds(session) == 3_600

"""The operators' admin."""

import html
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from sessions_app.models import (
    AgentSession,
    AgentType,
    ApiToken,
    Event,
    LoginLink,
    Message,
    Run,
    RunStatus,
    ToolCall,
    UsageRecord,
)
from sessions_app.services.accepting import accept_turn
from sessions_app.services.claiming import claim_run
from sessions_app.services.login_links import create_login_link
from sessions_app.services.recording import NewCall, NewEvent, NewMessage, Step, Usage, finish_run
from sessions_app.services.sessions import create_session
from sessions_app.services.tokens import create_token, find_bearer

pytestmark = pytest.mark.django_db
MODELS = [AgentSession, AgentType, ApiToken, Event, LoginLink, Message, Run, ToolCall, UsageRecord]


@pytest.fixture
def admin(client: Any, user: Any) -> Any:
    user.is_staff = user.is_superuser = True
    user.save()
    client.force_login(user)
    return client


def one_turn(user: Any) -> AgentSession:
    session = create_session(owner=user, agent_type="demo", title="<b>bold</b>")
    turn = accept_turn(user=user, session_id=session.pk, message="hi <script>")
    claim = claim_run(run_id=turn.run_id, worker="w")
    assert claim is not None
    step = Step([NewMessage(1, "assistant", "answer")], [NewEvent(1, 1, "done", {})], [Usage(1, 2, model="m")])
    step.calls.append(NewCall("c1", "clock", {}, "key", is_idempotent=True))
    finish_run(claim=claim, status=RunStatus.SUCCEEDED, step=step)
    return session


@pytest.fixture
def filled(user: Any) -> AgentSession:
    create_token(owner=user, name="t")
    create_login_link(user=user)
    return one_turn(user)


def url(model: Any, rest: str = "") -> str:
    return f"/admin/sessions_app/{model._meta.model_name}/{rest}"


@pytest.mark.parametrize("model", MODELS)
def test_every_list_and_every_page_opens(model: Any, admin: Any, filled: AgentSession) -> None:
    assert admin.get(url(model)).status_code == 200
    assert admin.get(url(model), {"q": "hi"}).status_code == 200
    page = admin.get(url(model, f"{model.objects.first().pk}/change/"))
    assert page.status_code == 200
    assert b"<script>hi" not in page.content
    assert b"<b>bold" not in page.content


@pytest.mark.parametrize("model", [AgentSession, Run, Message, Event, UsageRecord])
def test_a_list_takes_a_constant_number_of_queries(model: Any, admin: Any, user: Any) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            admin.get(url(model))
        return len(captured)

    one_turn(user)
    few = queries()
    for _ in range(10):
        one_turn(user)
    assert queries() <= few + 1


@pytest.mark.parametrize("model", [AgentSession, Run, Message, Event, UsageRecord, LoginLink])
def test_the_record_cannot_be_edited(model: Any, admin: Any, filled: AgentSession) -> None:
    pk = model.objects.first().pk
    assert admin.get(url(model, "add/")).status_code == 403
    assert admin.post(url(model, f"{pk}/change/"), {"title": "x"}).status_code == 403
    assert admin.post(url(model, f"{pk}/delete/"), {"post": "yes"}).status_code == 403


def test_a_session_shows_its_history_and_links_its_records(admin: Any, filled: AgentSession) -> None:
    page = admin.get(url(AgentSession, f"{filled.pk}/change/")).content.decode()
    assert "answer" in page
    for model in (Run, Message, Event):
        link = f"{url(model)}?session__id__exact={filled.pk}"
        assert link in page
        assert admin.get(link).status_code == 200


def test_a_sessions_history_names_the_tools_that_were_called(admin: Any, filled: AgentSession) -> None:
    call = {"id": "c1", "name": "clock", "arguments": {"timezone": "Asia/Tōkyō"}}
    Message.objects.filter(session=filled, role="assistant").update(content="I look.", tool_calls=[call])
    page = html.unescape(admin.get(url(AgentSession, f"{filled.pk}/change/")).content.decode())
    assert 'I look.\n→ clock({"timezone": "Asia/Tōkyō"})' in page


def test_an_agent_type_names_only_what_there_is(admin: Any) -> None:
    fields = {"name": "x", "title": "X", "runtime": "demo", "tools": ["clock"], "max_steps": 3, "is_enabled": "on"}
    fields |= {"max_attempts": 3, "on_busy": "enqueue", "unknown_outcome": "ask", "model_retries": 2}
    fields |= {"context_strategy": "sliding_window", "max_parallel_tools": 8, "routing_strategy": "shared"}
    fields |= {"approval_policy": "flagged", "on_approval_expiry": "deny"}
    refused = admin.post(url(AgentType, "add/"), {**fields, "runtime": "os.system"})
    assert b"os.system is not in the setting AGENT_RUNTIMES, which has: demo, chat" in refused.content
    assert b"Select a valid choice" in admin.post(url(AgentType, "add/"), {**fields, "tools": ["rm"]}).content
    assert admin.post(url(AgentType, "add/"), fields).status_code == 302
    assert AgentType.objects.get(name="x").tools == ["clock"]


def test_a_new_token_is_shown_once(admin: Any, user: Any) -> None:
    page = admin.post(url(ApiToken, "add/"), {"owner": user.pk, "name": "ci"}, follow=True).content.decode()
    plaintext = page.split("shown only now: ")[1].split("<")[0].strip()
    assert getattr(find_bearer(plaintext), "owner", None) == user
    token = ApiToken.objects.get(name="ci")
    shown = admin.get(url(ApiToken, f"{token.pk}/change/")).content.decode()
    assert plaintext not in shown
    assert token.prefix in shown
    revoke = {"action": "revoke", "_selected_action": [token.pk]}
    assert "1 revoked." in admin.post(url(ApiToken), revoke, follow=True).content.decode()
    assert find_bearer(plaintext) is None
    assert "0 revoked." in admin.post(url(ApiToken), revoke, follow=True).content.decode()


def test_an_operator_settles_a_call_whose_outcome_nobody_knows(admin: Any, filled: AgentSession) -> None:
    call = ToolCall.objects.get()
    ToolCall.objects.update(status="unknown")
    action = {"action": "settle_as_rerun", "_selected_action": [call.pk]}
    assert "does not wait" in admin.post(url(ToolCall), action, follow=True).content.decode()
    Run.objects.update(status=RunStatus.AWAITING_APPROVAL)
    assert call.call_id in admin.get(url(ToolCall, "?waits=1")).content.decode()
    assert "1 settled" in admin.post(url(ToolCall), action, follow=True).content.decode()
    call.refresh_from_db()
    assert (call.status, call.decision, call.decided_by_id) == ("planned", "rerun", filled.owner_id)
    assert Run.objects.get().status == RunStatus.QUEUED

"""Limits in the operators' admin: made and changed with a record of it, shown with what is used of them, raised."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from monitoring import prices, quotas
from monitoring.defaults import keep_defaults
from monitoring.ledger import ModelCall, differences, reserve
from monitoring.models import Account, BudgetPause, Measure, Period, Price, Quota, QuotaChange, Reservation, Scope
from monitoring.quotas import limits_of
from sessions_app.models import AgentSession, Run, RunStatus, UsageRecord
from sessions_app.services.sessions import create_session

pytestmark = pytest.mark.django_db
MODELS: list[Any] = [Account, BudgetPause, Price, Quota, QuotaChange, Reservation]
FIELDS = {"name": "daily", "scope": "user", "measure": "tokens", "period": "day", "limit": "1000", "action": "pause"}
FIELDS |= {"warn_percent": "80", "is_enabled": "on"}


@pytest.fixture(autouse=True)
def nothing_kept(db: None) -> Any:
    Quota.objects.all().delete()
    QuotaChange.objects.all().delete()
    quotas.forget()
    yield
    quotas.forget()
    prices.forget()


@pytest.fixture
def admin(client: Any, user: Any) -> Any:
    user.is_staff = user.is_superuser = True
    user.save()
    client.force_login(user)
    return client


@pytest.fixture
def session(user: Any) -> AgentSession:
    return create_session(owner=user, agent_type="demo", title="<b>bold</b>")


def url(model: Any, rest: str = "") -> str:
    return f"/admin/monitoring/{model._meta.model_name}/{rest}"


def budget(name: str = "b", **fields: Any) -> Quota:
    values = {"scope": Scope.SESSION, "measure": Measure.TOKENS, "period": Period.TOTAL, "limit": 1_000, **fields}
    return Quota.objects.create(name=name, **values)


def use(session: AgentSession, tokens: int, reserved: int = 0) -> None:
    settled = reserve(ModelCall(session.pk, ["m"], tokens, 0, 0))
    UsageRecord.objects.create(
        owner=session.owner,
        session=session,
        agent_type=session.agent_type,
        input_tokens=tokens,
        reservation_id=settled.id,
    )
    if reserved:
        reserve(ModelCall(session.pk, ["m"], reserved, 0, 0))


def wait_for(quota: Quota, session: AgentSession, needed: int = 500) -> Run:
    run = Run.objects.create(session=session, turn=session.next_turn, status=RunStatus.AWAITING_APPROVAL)
    BudgetPause.objects.create(run=run, quota=quota, subject=f"session:{session.pk}", needed=needed)
    return run


def change(admin: Any, quota: Quota, **fields: Any) -> str:
    answer = admin.post(url(Quota, f"{quota.pk}/change/"), {**FIELDS, **fields}, follow=True)
    return str(answer.content.decode())


def test_every_list_and_every_page_opens(admin: Any, session: AgentSession) -> None:
    quota = budget()
    use(session, 500, 100)
    wait_for(quota, session)
    Price.objects.create(model="m", input_price=1, output_price=2)
    change(admin, quota, name="c")
    for model in MODELS:
        assert admin.get(url(model)).status_code == 200, model
        assert admin.get(url(model), {"q": "m"}).status_code == 200, model
        page = admin.get(url(model, f"{model.objects.first().pk}/change/"))
        assert page.status_code == 200, model
        assert b"<b>bold" not in page.content


@pytest.mark.parametrize("model", MODELS)
def test_it_is_for_staff_with_the_permission(model: Any, client: Any, other_user: User) -> None:
    assert client.get(url(model)).status_code == 302
    client.force_login(other_user)
    assert client.get(url(model)).status_code == 302
    other_user.is_staff = True
    other_user.save()
    assert client.get(url(model)).status_code == 403


@pytest.mark.parametrize("model", [Account, BudgetPause, QuotaChange, Reservation])
def test_the_ledger_and_its_audit_cannot_be_edited(model: Any, admin: Any, session: AgentSession) -> None:
    quota = budget()
    use(session, 10, 10)
    wait_for(quota, session)
    QuotaChange.objects.create(quota=quota, name="b")
    pk = model.objects.first().pk
    assert admin.get(url(model, "add/")).status_code == 403
    assert admin.post(url(model, f"{pk}/change/"), {"used": 0}).status_code == 403
    assert admin.post(url(model, f"{pk}/delete/"), {"post": "yes"}).status_code == 403


def test_a_list_takes_a_constant_number_of_queries(admin: Any, user: Any) -> None:
    def queries(model: Any) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert admin.get(url(model)).status_code == 200
        return len(captured)

    def more(number: int) -> None:
        session = create_session(owner=user, agent_type="demo")
        quota = budget(f"b{number}", scope=Scope.USER, user=user)
        budget(f"each{number}")
        use(session, 10, 10)
        wait_for(quota, session)
        QuotaChange.objects.create(quota=quota, name="b", subject=f"session:{session.pk}", changed_by=user, after={})

    more(0)
    few = {model: queries(model) for model in MODELS}
    for number in range(1, 6):
        more(number)
    assert {model: queries(model) for model in MODELS} == few
    assert max(few.values()) <= 16


# --- quotas -----------------------------------------------------------------------------------------------------------


def test_a_quota_is_made_changed_and_deleted_on_record(admin: Any, user: Any) -> None:
    assert admin.post(url(Quota, "add/"), FIELDS).status_code == 302
    quota = Quota.objects.get()
    change(admin, quota, limit="2500")
    change(admin, quota, limit="2500")
    admin.post(url(Quota, f"{quota.pk}/delete/"), {"post": "yes"})
    assert not Quota.objects.exists()
    deleted, changed, made = list[Any](QuotaChange.objects.all())
    assert (made.before, made.after["limit"], made.after["scope"]) == (None, "1000", "user")
    assert (changed.before["limit"], changed.after["limit"], changed.quota) == ("1000", "2500", None)
    assert (deleted.before["limit"], deleted.after, deleted.name) == ("2500", None, "daily")
    assert {each.changed_by for each in (made, changed, deleted)} == {user}
    page = admin.get(url(QuotaChange)).content.decode()
    assert "limit 1000 → 2500" in page
    assert "deleted" in page


def test_mistakes_are_told_at_their_fields(admin: Any, user: Any) -> None:
    def refused(**fields: Any) -> dict[str, list[str]]:
        answer = admin.post(url(Quota, "add/"), {**FIELDS, **fields})
        assert answer.status_code == 200
        return dict(answer.context["adminform"].form.errors)

    assert list(refused(period="minute")) == ["period"]
    assert list(refused(limit="-5")) == ["limit"]
    assert list(refused(limit="NaN")) == ["limit"]
    assert list(refused(limit="0.5")) == ["limit"]
    assert list(refused(scope="site", user=user.pk)) == ["user"]
    assert list(refused(measure="requests", period="minute")) == ["action"]
    assert list(refused(owner_limit="10")) == ["owner_limit"]
    assert list(refused(name="two words")) == ["name"]
    assert not Quota.objects.exists()


def test_a_changed_limit_holds_in_this_process_at_once(admin: Any, django_capture_on_commit_callbacks: Any) -> None:
    fields = {**FIELDS, "measure": "requests", "period": "minute", "action": "reject", "limit": "7"}
    assert limits_of(Measure.REQUESTS) == ()
    with django_capture_on_commit_callbacks(execute=True):
        admin.post(url(Quota, "add/"), fields)
    assert [limit.limit for limit in limits_of(Measure.REQUESTS)] == [7]


@pytest.mark.parametrize(
    ("fields", "is_kept"),
    [
        ({"limit": "500"}, True),
        ({"action": "warn", "warn_percent": "50", "owner_limit": "9000", "name": "renamed"}, True),
        ({"period": "month"}, False),
        ({"scope": "site"}, False),
        ({"is_enabled": ""}, False),
    ],
)
def test_accounts_are_summed_up_anew_if_what_they_count_changes(
    admin: Any, session: AgentSession, fields: dict[str, str], is_kept: bool
) -> None:
    admin.post(url(Quota, "add/"), FIELDS)
    use(session, 100, 10)
    change(admin, Quota.objects.get(), **fields)
    account = Account.objects.get()
    assert (account.is_counted, account.reserved) == (is_kept, 10)
    assert differences() == []


def test_what_was_used_while_a_budget_was_off_counts_when_it_is_on_again(admin: Any, session: AgentSession) -> None:
    admin.post(url(Quota, "add/"), FIELDS)
    use(session, 100)
    change(admin, Quota.objects.get(), is_enabled="")
    use(session, 200)
    change(admin, Quota.objects.get())
    use(session, 1)
    assert Account.objects.get().used == 301
    assert differences() == []


def test_another_measure_begins_with_new_accounts(admin: Any, session: AgentSession) -> None:
    """What is reserved is in the old unit: it must not be taken back from the new one."""
    admin.post(url(Quota, "add/"), FIELDS)
    use(session, 100, 10)
    change(admin, Quota.objects.get(), measure="cost", limit="5")
    assert not Account.objects.exists()
    use(session, 50)
    UsageRecord.objects.create(
        owner=session.owner, session=session, input_tokens=10, reservation_id=Reservation.objects.get().pk
    )
    assert not Reservation.objects.exists()
    assert differences() == []


def test_the_list_shows_whom_a_quota_is_of_and_its_fullest_account(
    admin: Any, user: Any, session: AgentSession
) -> None:
    budget("one", scope=Scope.USER, user=user, period=Period.DAY)
    budget("each", scope=Scope.GROUP)
    use(session, 400, 350)
    Account.objects.create(
        quota=Quota.objects.get(name="one"),
        subject=f"user:{user.pk}",
        period_start=timezone.now() - timedelta(days=2),
        used=999,
        is_counted=True,
    )
    page = admin.get(url(Quota)).content.decode()
    assert "user owner" in page
    assert "each group" in page
    assert "75&nbsp;%" in page
    assert "99.9" not in page


def test_the_page_shows_the_accounts_of_now_the_fullest_first(admin: Any, user: Any, session: AgentSession) -> None:
    quota = budget()
    other = create_session(owner=user, agent_type="demo", title="fuller")
    use(session, 100, 20)
    use(other, 900)
    page = admin.get(url(Quota, f"{quota.pk}/change/")).content.decode()
    assert page.index("session fuller") < page.index("session &lt;b&gt;bold")
    assert f"/admin/sessions_app/agentsession/{other.pk}/change/" in page
    assert "12&nbsp;%" in page
    assert "/raise/" in page
    assert f"/admin/monitoring/account/?quota__id__exact={quota.pk}" in page
    assert admin.get(f"/admin/monitoring/account/?quota__id__exact={quota.pk}").status_code == 200
    assert admin.get(f"/admin/monitoring/quotachange/?quota__id__exact={quota.pk}").status_code == 200


def test_a_settings_quota_is_the_settings(admin: Any) -> None:
    keep_defaults()
    quota = Quota.objects.get(setting="MAX_TOKENS_PER_SESSION")
    assert QuotaChange.objects.get(quota=quota).changed_by is None
    page = admin.get(url(Quota, f"{quota.pk}/change/")).content.decode()
    assert "MAX_TOKENS_PER_SESSION" in page
    assert 'name="limit"' not in page
    change(admin, quota, limit="1", is_enabled="", owner_limit="300000", action="reject")
    quota.refresh_from_db()
    assert (quota.limit, quota.is_enabled, quota.name) == (Decimal(100_000), True, "session-tokens")
    assert (quota.owner_limit, quota.action) == (Decimal(300_000), "reject")
    assert admin.post(url(Quota, f"{quota.pk}/delete/"), {"post": "yes"}).status_code == 403
    action = {"action": "delete_selected", "_selected_action": [quota.pk], "post": "yes"}
    admin.post(url(Quota), action)
    assert Quota.objects.filter(pk=quota.pk).exists()


def test_a_changed_setting_changes_its_quota_on_record(settings: Any) -> None:
    keep_defaults()
    before = QuotaChange.objects.count()
    keep_defaults()
    assert QuotaChange.objects.count() == before
    settings.MAX_TOKENS_PER_SESSION = 0
    keep_defaults()
    changed: Any = QuotaChange.objects.first()
    assert (changed.name, changed.after["limit"], changed.after["is_enabled"]) == ("session-tokens", "0", False)


def test_a_quota_is_deleted_with_its_accounts_and_lets_its_runs_go_on(admin: Any, session: AgentSession) -> None:
    quota = budget()
    use(session, 100, 10)
    run = wait_for(quota, session)
    action = {"action": "delete_selected", "_selected_action": [quota.pk]}
    assert "accounts: 1" in admin.post(url(Quota), action).content.decode().lower()
    admin.post(url(Quota), {**action, "post": "yes"})
    assert not Quota.objects.exists()
    assert not Account.objects.exists()
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED


def test_a_quota_that_goes_with_its_group_lets_its_runs_go_on(session: AgentSession) -> None:
    group = Group.objects.create(name="g")
    run = wait_for(budget(scope=Scope.GROUP, group=group), session)
    group.delete()
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_accounts_are_found_by_names(admin: Any, session: AgentSession, other_user: User) -> None:
    budget(scope=Scope.USER)
    use(session, 10)
    use(create_session(owner=other_user, agent_type="demo"), 20)
    for text in ("owner", f"user:{session.owner_id}"):
        rows = admin.get(url(Account), {"q": text}).context["cl"].result_list
        assert [row.subject for row in rows] == [f"user:{session.owner_id}"]
    assert len(admin.get(url(Account), {"now": "1"}).context["cl"].result_list) == 2
    assert len(admin.get(url(Account), {"now": "0"}).context["cl"].result_list) == 0


def test_an_operator_raises_an_account_and_its_runs_go_on(admin: Any, user: Any, session: AgentSession) -> None:
    quota = budget()
    use(session, 900)
    run = wait_for(quota, session)
    account = Account.objects.get()
    link = url(Account, f"{account.pk}/raise/")
    assert b"1 run waits for it" in admin.get(link).content
    for wrong in ("", "0", "-5", "0.5", "many", "NaN", str(10**13)):
        assert admin.post(link, {"amount": wrong}).status_code == 200, wrong
    page = admin.post(link, {"amount": "450"}, follow=True).content.decode()
    assert "Raised by 450" in page
    assert "1,450" in page
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED
    audit = QuotaChange.objects.get()
    assert (audit.changed_by, audit.subject, audit.after) == (user, account.subject, {"limit": "1450"})


def test_raising_needs_the_permission(client: Any, other_user: User, session: AgentSession) -> None:
    budget()
    use(session, 900)
    link = url(Account, f"{Account.objects.get().pk}/raise/")
    other_user.is_staff = True
    other_user.save()
    other_user.user_permissions.add(Permission.objects.get(codename="view_account"))
    client.force_login(other_user)
    assert client.get(url(Account)).status_code == 200
    assert client.post(link, {"amount": "5"}).status_code == 403
    other_user.user_permissions.add(Permission.objects.get(codename="change_account"))
    assert client.post(link, {"amount": "5"}).status_code == 302
    assert Account.objects.get().extra == 5


def test_a_period_that_is_over_is_not_raised(admin: Any, session: AgentSession) -> None:
    budget(period=Period.DAY)
    use(session, 900)
    Account.objects.update(period_start="2026-01-01T00:00:00Z")
    page = admin.post(url(Account, f"{Account.objects.get().pk}/raise/"), {"amount": "5"}, follow=True)
    assert b"Its period is over" in page.content
    assert Account.objects.get().extra == 0
    assert admin.post(url(Account, "999999/raise/"), {"amount": "5"}).status_code == 404


def test_what_waits_is_looked_at_again(admin: Any, session: AgentSession) -> None:
    quota = budget()
    use(session, 900)
    run = wait_for(quota, session)
    action = {"action": "look_again", "_selected_action": [run.pk]}
    assert "None of them fits yet" in admin.post(url(BudgetPause), action, follow=True).content.decode()
    Quota.objects.update(limit=2_000)
    assert "1 of all that wait go on" in admin.post(url(BudgetPause), action, follow=True).content.decode()
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED


# --- prices -----------------------------------------------------------------------------------------------------------


def test_a_price_that_is_saved_holds_at_once(admin: Any, django_capture_on_commit_callbacks: Any) -> None:
    assert prices.price_list().of("m-1") == prices.FREE
    fields = {"model": "m*", "input_price": "1.5", "output_price": "6", "effective_from_0": "2026-01-01"}
    fields["effective_from_1"] = "00:00:00"
    for wrong in ({"input_price": "-1"}, {"model": "m*x"}, {"output_price": ""}):
        answer = admin.post(url(Price, "add/"), {**fields, **wrong})
        assert list(answer.context["adminform"].form.errors) == list(wrong)
    with django_capture_on_commit_callbacks(execute=True):
        assert admin.post(url(Price, "add/"), fields).status_code == 302
    assert prices.price_list().of("m-1").input == 1_500_000
    with django_capture_on_commit_callbacks(execute=True):
        admin.post(url(Price, f"{Price.objects.get().pk}/delete/"), {"post": "yes"})
    assert prices.price_list().of("m-1") == prices.FREE


def test_the_list_says_which_price_is_in_effect(admin: Any) -> None:
    for days in (-9, -3, 3):
        when = timezone.now() + timedelta(days=days)
        Price.objects.create(model="m", input_price=Decimal(1), output_price=Decimal(1), effective_from=when)
    rows = admin.get(url(Price)).context["cl"].result_list
    assert [row.in_effect for row in rows] == [False, True, False]


# --- the ledger's check, metrics --------------------------------------------------------------------------------------


def test_the_ledger_is_checked_by_a_command(session: AgentSession, capsys: pytest.CaptureFixture[str]) -> None:
    budget()
    use(session, 100)
    call_command("check_ledger")
    assert "1 accounts agree" in capsys.readouterr().out
    Account.objects.update(used=101)
    with pytest.raises(SystemExit) as ended:
        call_command("check_ledger", "--recount")
    assert ended.value.code == 1
    assert "b of session <b>bold</b>" in (told := capsys.readouterr().out)
    assert "101 in the account, 100 in the records" in told
    use(session, 1)
    assert Account.objects.get().used == 101
    call_command("check_ledger")


def test_metrics_tell_of_budgets_of_which_there_are_few(admin: Any, session: AgentSession) -> None:
    budget("site", scope=Scope.SITE)
    budget("each-user", scope=Scope.USER)
    budget("off", scope=Scope.SITE, is_enabled=False)
    use(session, 200, 50)
    UsageRecord.objects.update(cost=Decimal("1.25"))
    wait_for(Quota.objects.get(name="site"), session)
    text = admin.get("/metrics").content.decode()
    assert 'agentsite_budget_used_ratio{quota="site",subject="site"} 0.25' in text
    assert "each-user" not in text
    assert '"off"' not in text
    assert "agentsite_cost_total 1.25" in text
    assert "agentsite_budget_pauses 1.0" in text
    assert "agentsite_reservations 1.0" in text

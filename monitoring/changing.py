"""Changing limits. Each change is on record, and the accounts go on saying what the usage records say."""

from typing import Any

from django.db import connection, transaction
from django.db.models.signals import pre_delete
from django.dispatch import receiver

from monitoring import quotas
from monitoring.models import BudgetPause, Quota, QuotaChange
from monitoring.models.quota import plain
from monitoring.pausing import resume_paused
from sessions_app.services.deciding import go_on

# What an account's use does not depend on.
_UNCOUNTED = ("name", "limit", "action", "warn_percent", "owner_limit")


def described(quota: Quota) -> dict[str, Any]:
    """What a limit says, as it is kept on record."""
    target = quota.target_id
    return {
        "name": quota.name,
        "scope": quota.scope,
        "target": None if target is None else str(target),
        "measure": quota.measure,
        "period": quota.period,
        "limit": plain(quota.limit),
        "action": quota.action,
        "warn_percent": quota.warn_percent,
        "owner_limit": None if quota.owner_limit is None else plain(quota.owner_limit),
        "is_enabled": quota.is_enabled,
    }


@transaction.atomic
def save_quota(*, quota: Quota, user: Any) -> None:
    """Make a limit or change it; `user` is None if a setting does. Each process follows within seconds."""
    before = Quota.objects.get(pk=quota.pk) if quota.pk else None
    old, new = described(before) if before else {}, described(quota)
    recounts = {name for name in new if old.get(name) != new[name]} - {*_UNCOUNTED}
    if recounts and (quota.is_budget or (before and before.is_budget)):
        _wait_for_records()
    quota.save()
    if old == new:
        return
    if "measure" in recounts:
        quota.accounts.all().delete()  # they count in another unit
    elif recounts and before:
        _recount(quota)
    QuotaChange.objects.create(quota=quota, name=quota.name, before=old or None, after=new, changed_by=user)
    transaction.on_commit(quotas.forget)
    if before:
        transaction.on_commit(resume_paused)


@transaction.atomic
def delete_quota(*, quota: Quota, user: Any) -> None:
    """Remove a limit with its accounts. Runs that wait for it go on."""
    locked = Quota.objects.select_for_update().get(pk=quota.pk)  # from here on it gets no new account
    QuotaChange.objects.create(name=locked.name, before=described(locked), after=None, changed_by=user)
    locked.delete()
    transaction.on_commit(quotas.forget)


def _wait_for_records() -> None:
    """Let no record be written until this transaction's end, and those that are being written be there: each is then
    either added to an account or found when it is summed up."""
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE sessions_app_usagerecord IN SHARE MODE")


def _recount(quota: Quota) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT monitoring_recount(ARRAY(SELECT id FROM monitoring_account WHERE quota_id = %s))", [quota.pk]
        )


@receiver(pre_delete, sender=Quota)
def let_go_on(sender: type[Quota], instance: Quota, **kwargs: Any) -> None:
    """Whatever deletes a quota, such as its user's deletion: no run waits for one that is gone."""
    waiting = BudgetPause.objects.filter(quota=instance)
    runs = list(waiting.values_list("run_id", flat=True))
    waiting.delete()
    for run_id in runs:
        go_on(run_id=run_id)

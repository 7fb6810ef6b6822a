"""The limits that come from settings: rows among the quotas, kept true whenever migrations run, as each start does."""

from decimal import Decimal
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db import connection, transaction
from django.db.models.signals import post_migrate
from django.dispatch import receiver

from monitoring.changing import save_quota
from monitoring.models import Action, Measure, Period, Quota, Scope

_DEFAULTS: dict[str, dict[str, Any]] = {
    "MAX_CONCURRENT_AGENTS": {"name": "site-runs", "scope": Scope.SITE, "measure": Measure.CONCURRENT_RUNS},
    "MAX_TOKENS_PER_SESSION": {
        "name": "session-tokens",
        "scope": Scope.SESSION,
        "measure": Measure.TOKENS,
        "period": Period.TOTAL,
        "action": Action.PAUSE,
    },
    "MAX_TOOL_CALLS_PER_MINUTE": {
        "name": "session-tool-calls",
        "scope": Scope.SESSION,
        "measure": Measure.TOOL_CALLS,
        "period": Period.MINUTE,
    },
}


@receiver(post_migrate)
def keep_defaults_after_migrations(sender: AppConfig, **kwargs: Any) -> None:
    if sender.name == "monitoring":
        keep_defaults()


@transaction.atomic
def keep_defaults() -> None:
    """Make each setting's row say what the setting says; 0 switches it off. What else an operator has changed in it
    stays."""
    _one_at_a_time()
    for setting, fields in _DEFAULTS.items():
        limit = Decimal(getattr(settings, setting))
        quota = Quota.objects.filter(setting=setting).first() or Quota(setting=setting, **fields, limit=-1)
        if quota.limit != limit or quota.is_enabled != bool(limit):
            quota.limit, quota.is_enabled = limit, bool(limit)
            save_quota(quota=quota, user=None)


def _one_at_a_time() -> None:
    """Several processes may start at once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('monitoring.defaults'))")

"""The limits that come from settings: rows among the quotas, kept true whenever migrations run, as each start does."""

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_migrate
from django.dispatch import receiver

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
    for setting, fields in _DEFAULTS.items():
        limit = getattr(settings, setting)
        quota, is_new = Quota.objects.get_or_create(setting=setting, defaults={**fields, "limit": limit})
        if not is_new and (quota.limit != limit or quota.is_enabled != bool(limit)):
            quota.limit, quota.is_enabled = limit, bool(limit)
            quota.save(update_fields=["limit", "is_enabled", "updated_at"])
        elif is_new and not limit:
            Quota.objects.filter(pk=quota.pk).update(is_enabled=False)

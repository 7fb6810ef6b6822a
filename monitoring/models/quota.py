from decimal import Decimal
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from monitoring.quota_rules import TARGETS, mistakes_in
from sessions_app.models import AgentSession, AgentType

MICRO = 1_000_000  # cost is counted in millionths of the operator's currency


def plain(amount: Decimal) -> str:
    """As people write it: without an exponent, and without zeros that say nothing."""
    return f"{amount.normalize():f}"


class Scope(models.TextChoices):
    """What a limit is of. Without a target it is of each of them by itself."""

    SITE = "site", "the whole site"
    GROUP = "group", "group"
    USER = "user", "user"
    AGENT_TYPE = "agent_type", "agent type"
    SESSION = "session", "session"
    RUN = "run", "run"


class Measure(models.TextChoices):
    """What is limited."""

    TOKENS = "tokens", "tokens: of prompts and answers"
    COST = "cost", "cost: by the price table"
    CONCURRENT_RUNS = "concurrent_runs", "concurrent runs"
    TOOL_CALLS = "tool_calls", "tool calls of a session"
    REQUESTS = "requests", "requests"


class Period(models.TextChoices):
    """Over which time, in UTC. Periods begin at full hours, days and months."""

    NONE = "", "at any moment (concurrent runs)"
    MINUTE = "minute", "minute (tool calls, requests)"
    HOUR = "hour", "hour"
    DAY = "day", "day"
    MONTH = "month", "month"
    TOTAL = "total", "all time"


class Action(models.TextChoices):
    """What happens at the limit. Concurrent runs wait, rates are refused, whatever stands here."""

    REJECT = "reject", "reject: the run ends with an error"
    PAUSE = "pause", "pause: the run waits until somebody raises the budget"
    WARN = "warn", "warn only"


class Quota(models.Model):
    """A limit. All that apply to a run hold at once."""

    name = models.SlugField(unique=True, help_text="What users are told.")
    scope = models.CharField(max_length=10, choices=Scope)
    group = models.ForeignKey(Group, models.CASCADE, null=True, blank=True, related_name="+")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="+")
    agent_type = models.ForeignKey(AgentType, models.CASCADE, null=True, blank=True, related_name="+")
    session = models.ForeignKey(AgentSession, models.CASCADE, null=True, blank=True, related_name="+")
    measure = models.CharField(max_length=20, choices=Measure)
    period = models.CharField(max_length=10, choices=Period, blank=True)
    limit = models.DecimalField(
        max_digits=18, decimal_places=6, help_text="Tokens, calls, requests, runs; or an amount of your currency."
    )
    action = models.CharField(max_length=10, choices=Action, default=Action.REJECT)
    warn_percent = models.PositiveSmallIntegerField(
        default=80,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="From which part of the limit on those who watch a run are warned.",
    )
    owner_limit = models.DecimalField(
        max_digits=18,
        decimal_places=6,
        null=True,
        blank=True,
        help_text="Up to which the session's owner may raise it. Empty: only an operator may.",
    )
    setting = models.CharField(
        max_length=50, blank=True, editable=False, help_text="The setting that it comes from, which keeps it true."
    )
    is_enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["scope", "measure", "name"]
        constraints = [
            models.CheckConstraint(condition=models.Q(limit__gte=0), name="quota_limit_not_negative"),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Refuse what cannot hold; raises ValidationError with the mistakes of each field."""
        if mistakes := mistakes_in(self):
            raise ValidationError(mistakes)

    @property
    def target_id(self) -> Any:
        """Of the one that it is of; None if it is of each of them."""
        return getattr(self, f"{self.scope}_id") if self.scope in TARGETS else None

    @property
    def is_budget(self) -> bool:
        """Whether what it limits is reserved and settled in accounts."""
        return self.measure in (Measure.TOKENS, Measure.COST)

    def units(self, amount: Decimal) -> int:
        """An amount as accounts count it: tokens, or millionths of the currency."""
        return int(amount * MICRO) if self.measure == Measure.COST else int(amount)

    def amount(self, units: int) -> Decimal:
        """The reverse of `units`."""
        return Decimal(units) / MICRO if self.measure == Measure.COST else Decimal(units)

    def shown(self, units: int) -> str:
        """What an account counts, as people write it."""
        return plain(self.amount(units))


class QuotaChange(models.Model):
    """Who changed which limit, and when. Never changed itself, and it outlives the quota."""

    quota = models.ForeignKey(Quota, models.SET_NULL, null=True, related_name="changes")
    name = models.SlugField()
    subject = models.CharField(max_length=60, blank=True, help_text="If one account was raised: whose.")
    before = models.JSONField(null=True, help_text="Empty: it was made.")
    after = models.JSONField(null=True, help_text="Empty: it was deleted.")
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", help_text="Empty: a setting."
    )
    changed_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.name}, {self.changed_at:%Y-%m-%d %H:%M}"

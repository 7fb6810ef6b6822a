"""The ledger of budgets. Written by the functions of monitoring/sql/ledger.sql only, so that it always agrees with the
usage records."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from monitoring.models.quota import Quota
from sessions_app.models import AgentSession, Run


class Account(models.Model):
    """What one quota's subject has used in one period, in tokens or in millionths of the currency.

    `is_counted`: its use was summed up from the records; until then nobody may rely on it.
    """

    quota = models.ForeignKey(Quota, models.CASCADE, related_name="accounts", db_index=False)
    subject = models.CharField(max_length=60, help_text="site, user:5, group:2, agent_type:3, session:<id>, run:<id>")
    period_start = models.DateTimeField(help_text="1970 for all time.")
    used = models.BigIntegerField(default=0)
    reserved = models.BigIntegerField(default=0, help_text="By model calls that are under way.")
    extra = models.BigIntegerField(default=0, help_text="What somebody has added to the limit, for this period.")
    is_counted = models.BooleanField(default=False)
    warned_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-period_start", "quota", "subject"]
        constraints = [
            models.UniqueConstraint(fields=["quota", "subject", "period_start"], name="account_once"),
            models.CheckConstraint(condition=models.Q(reserved__gte=0), name="account_reserved_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.quota} of {self.subject}"

    @property
    def limit(self) -> int:
        return self.quota.units(self.quota.limit) + self.extra


class Reservation(models.Model):
    """The worst case of one model call that is under way. Its usage record settles it."""

    session = models.ForeignKey(AgentSession, models.CASCADE, related_name="+", db_index=False)
    run = models.ForeignKey(Run, models.CASCADE, null=True, related_name="+")
    epoch = models.BigIntegerField(null=True)
    purpose = models.CharField(max_length=10)
    model = models.CharField(max_length=200, blank=True)
    input_tokens = models.PositiveIntegerField()
    output_tokens = models.PositiveIntegerField()
    cost = models.BigIntegerField(help_text="In millionths of the currency.")
    account_ids = ArrayField(models.BigIntegerField())
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"{self.input_tokens} + {self.output_tokens} tokens of {self.model or 'a model'}"


class BudgetPause(models.Model):
    """Why a run is parked: this much did not fit. It goes on when it does."""

    run = models.OneToOneField(Run, models.CASCADE, primary_key=True, related_name="budget_pause")
    quota = models.ForeignKey(Quota, models.CASCADE, related_name="pauses")
    subject = models.CharField(max_length=60)
    needed = models.BigIntegerField(help_text="Tokens, or millionths of the currency.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return f"{self.run_id} waits for {self.quota}"

from django.conf import settings
from django.db import models

from sessions_app.models.agent_type import AgentType
from sessions_app.models.run import Run
from sessions_app.models.session import AgentSession


class UsagePurpose(models.TextChoices):
    ANSWER = "answer", "answer"
    SUMMARY = "summary", "summary"
    LOST = "lost", "lost with its worker"


class UsageRecord(models.Model):
    """What one model call used, in tokens. It outlives the session, for the accounts."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="usage_records", db_index=False)
    session = models.ForeignKey(AgentSession, models.SET_NULL, null=True, related_name="usage_records")
    run = models.ForeignKey(Run, models.SET_NULL, null=True, related_name="usage_records")
    agent_type = models.ForeignKey(AgentType, models.SET_NULL, null=True, related_name="usage_records")
    purpose = models.CharField(max_length=10, choices=UsagePurpose, default=UsagePurpose.ANSWER, db_default="answer")
    model = models.CharField(max_length=200, blank=True)
    input_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(default=0)
    reasoning_tokens = models.PositiveIntegerField(default=0)
    counted_tokens = models.PositiveIntegerField(
        default=0, db_default=0, help_text="What was counted here for the input: 0 if it was not."
    )
    is_estimated = models.BooleanField(default=False, help_text="Counted here; the provider reported none.")
    tool_calls = models.PositiveSmallIntegerField(default=0, db_default=0, help_text="That the answer asked for.")
    cost = models.DecimalField(
        max_digits=18, decimal_places=6, default=0, db_default=0, help_text="By the price table, in your currency."
    )
    queue_ms = models.PositiveIntegerField(
        null=True, blank=True, help_text="Of a run's first call: how long the run had waited for a worker."
    )
    wall_ms = models.PositiveIntegerField(null=True, blank=True, help_text="How long the call took.")
    reservation_id = models.BigIntegerField(null=True, editable=False, help_text="What was reserved for it.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["owner", "created_at"], name="usage_by_owner"),
            # How far the counts here are from the provider's, by model.
            models.Index(
                fields=["model", "-id"],
                condition=models.Q(is_estimated=False, counted_tokens__gt=0),
                name="usage_counted",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model or 'model'}: {self.input_tokens} in, {self.output_tokens} out"

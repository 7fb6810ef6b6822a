from django.conf import settings
from django.db import models

from sessions_app.models.run import Run


class ToolCallStatus(models.TextChoices):
    PLANNED = "planned", "planned: not started"
    AWAITING = "awaiting", "awaiting: a person has to approve it"
    STARTED = "started"
    FINISHED = "finished"
    DENIED = "denied", "denied: it was not allowed, and never started"
    UNKNOWN = "unknown", "unknown: started, and nobody saw its end"
    SKIPPED = "skipped", "skipped: the run ended before it started"


class Decision(models.TextChoices):
    """What a person says of a call: the first two of one that awaits approval, the others of one whose outcome is
    unknown."""

    APPROVED = "approved", "approved: run it"
    DENIED = "denied", "denied: do not run it"
    HAPPENED = "happened", "happened: it took effect, with this result"
    RERUN = "rerun", "rerun: it took no effect, run it again"
    UNKNOWN = "unknown", "unknown: tell the agent that nobody knows"


APPROVAL_DECISIONS = (Decision.APPROVED, Decision.DENIED)
OUTCOME_DECISIONS = (Decision.HAPPENED, Decision.RERUN, Decision.UNKNOWN)


class ToolCall(models.Model):
    """The ledger of tools' effects: what a run was about to do, had begun, and had done.

    A call is `planned` with the model's answer, `started` before its tool is, `finished` with its result. Only
    calls of tools that are not idempotent are marked as started: the others may be repeated anyway.
    """

    run = models.ForeignKey(Run, models.CASCADE, related_name="tool_call_records", db_index=False)
    call_id = models.CharField(max_length=200)
    tool = models.CharField(max_length=200)
    arguments = models.JSONField(default=dict, help_text="As the agent wrote them.")
    edited_arguments = models.JSONField(null=True, blank=True, help_text="As a person has changed them, if one did.")
    idempotency_key = models.CharField(max_length=300, help_text="The same for each repetition; tools get it.")
    is_idempotent = models.BooleanField(default=False)
    cost = models.FloatField(default=0.0, help_text="What the tool says that a call costs, in the operator's currency.")
    status = models.CharField(max_length=10, choices=ToolCallStatus, default=ToolCallStatus.PLANNED)
    is_error = models.BooleanField(default=False)
    stored_result = models.TextField(
        blank=True, help_text="The whole result, if it was too large for the conversation."
    )
    planned_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Until when its approval is waited for.")
    decision = models.CharField(max_length=10, choices=Decision, blank=True)
    decided_result = models.JSONField(null=True, blank=True, help_text="The result, if the decision brought one.")
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["run", "call_id"], name="tool_call_once")]
        indexes = [
            # What waits for a person.
            models.Index(
                fields=["planned_at"],
                condition=models.Q(status__in=["awaiting", "unknown"], decision=""),
                name="tool_call_open",
            ),
            models.Index(fields=["expires_at"], condition=models.Q(status="awaiting"), name="tool_call_expiry"),
        ]

    def __str__(self) -> str:
        return f"{self.tool} ({self.status})"


class ToolCallDecision(models.Model):
    """Who decided what of a tool call, and when: written once, never changed."""

    tool_call = models.ForeignKey(ToolCall, models.CASCADE, related_name="decisions")
    decision = models.CharField(max_length=10, choices=Decision)
    arguments = models.JSONField(null=True, blank=True, help_text="The changed ones, if the person changed them.")
    result = models.JSONField(null=True, blank=True)
    reason = models.TextField(blank=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="Empty: the agent type's policy, when the time was over.",
    )
    decided_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"{self.tool_call.tool}: {self.decision}"

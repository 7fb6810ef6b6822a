from django.conf import settings
from django.db import models

from sessions_app.models.run import Run


class ToolCallStatus(models.TextChoices):
    PLANNED = "planned", "planned: not started"
    STARTED = "started"
    FINISHED = "finished"
    UNKNOWN = "unknown", "unknown: started, and nobody saw its end"
    SKIPPED = "skipped", "skipped: the run ended before it started"


class Decision(models.TextChoices):
    """How a person settles a call whose outcome is unknown."""

    HAPPENED = "happened", "happened: it took effect, with this result"
    RERUN = "rerun", "rerun: it took no effect, run it again"
    UNKNOWN = "unknown", "unknown: tell the agent that nobody knows"


class ToolCall(models.Model):
    """The ledger of tools' effects: what a run was about to do, had begun, and had done.

    A call is `planned` with the model's answer, `started` before its tool is, `finished` with its result. Only
    calls of tools that are not idempotent are marked as started: the others may be repeated anyway.
    """

    run = models.ForeignKey(Run, models.CASCADE, related_name="tool_call_records", db_index=False)
    call_id = models.CharField(max_length=200)
    tool = models.CharField(max_length=200)
    arguments = models.JSONField(default=dict)
    idempotency_key = models.CharField(max_length=300, help_text="The same for each repetition; tools get it.")
    is_idempotent = models.BooleanField(default=False)
    status = models.CharField(max_length=10, choices=ToolCallStatus, default=ToolCallStatus.PLANNED)
    is_error = models.BooleanField(default=False)
    planned_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    decision = models.CharField(max_length=10, choices=Decision, blank=True)
    decided_result = models.JSONField(null=True, blank=True, help_text="The result, if the decision was `happened`.")
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["run", "call_id"], name="tool_call_once")]
        indexes = [
            # What waits for a person.
            models.Index(
                fields=["planned_at"], condition=models.Q(status="unknown", decision=""), name="tool_call_open"
            )
        ]

    def __str__(self) -> str:
        return f"{self.tool} ({self.status})"

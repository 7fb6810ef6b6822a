from django.db import models
from django.utils import timezone

from sessions_app.models.run import Run
from sessions_app.models.session import AgentSession


class Role(models.TextChoices):
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    SYSTEM = "system"


class Message(models.Model):
    """One entry of the conversation. Its place is (turn, position): a queued turn's message stays behind
    the answers of the turns before it, though it was written first."""

    session = models.ForeignKey(AgentSession, models.CASCADE, related_name="messages", db_index=False)
    run = models.ForeignKey(Run, models.CASCADE, related_name="messages")
    turn = models.PositiveIntegerField()
    position = models.PositiveIntegerField()
    role = models.CharField(max_length=10, choices=Role)
    content = models.TextField(blank=True)
    thought = models.TextField(blank=True)
    tool_calls = models.JSONField(default=list, blank=True, help_text='[{"id", "name", "arguments"}]')
    tool_call_id = models.CharField(max_length=200, blank=True)
    tool_name = models.CharField(max_length=200, blank=True)
    is_error = models.BooleanField(default=False, help_text="A tool's result that reports a failure.")
    is_partial = models.BooleanField(default=False, help_text="An answer that was stopped or broke off.")
    duration_ms = models.PositiveIntegerField(null=True, blank=True)
    token_count = models.PositiveIntegerField(default=0, help_text="Of what the model is sent for it.")
    is_pinned = models.BooleanField(default=False, db_default=False, help_text="Always part of the prompt, as it is.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["turn", "position"]
        constraints = [
            # Order of the history, its page index, and a second fence against two writers.
            models.UniqueConstraint(fields=["session", "turn", "position"], name="message_place_once"),
        ]
        indexes = [
            models.Index(fields=["session", "turn"], condition=models.Q(is_pinned=True), name="message_pinned"),
        ]

    def __str__(self) -> str:
        return f"{self.role}: {self.content[:60]}"

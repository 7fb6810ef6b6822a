import uuid
from datetime import datetime

from django.conf import settings
from django.db import models
from django.utils import timezone

from sessions_app.models.agent_type import AgentType


class AgentSession(models.Model):
    """One long-lived conversation of one owner with one agent type."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="agent_sessions")
    agent_type = models.ForeignKey(AgentType, models.PROTECT, related_name="sessions")
    forked_from = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="forks", db_index=False
    )
    title = models.CharField(max_length=200, blank=True)
    state = models.JSONField(default=dict, blank=True, help_text="The session's state document.")
    # The fence: whoever claims a run counts this up, and only the holder of the newest value may write.
    epoch = models.BigIntegerField(default=0, editable=False)
    next_turn = models.PositiveIntegerField(default=1, editable=False)
    message_count = models.PositiveIntegerField(default=0, editable=False)
    input_tokens = models.PositiveBigIntegerField(default=0, editable=False)
    output_tokens = models.PositiveBigIntegerField(default=0, editable=False)
    worked_ms = models.PositiveBigIntegerField(
        default=0, db_default=0, editable=False, help_text="How long its runs were at work."
    )
    ttl_seconds = models.PositiveIntegerField(default=0, help_text="Idle seconds until the session expires.")
    created_at = models.DateTimeField(auto_now_add=True)
    last_active = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["-last_active"]
        indexes = [
            # The owner's list, newest activity first.
            models.Index(
                fields=["owner", "-last_active", "id"],
                condition=models.Q(deleted_at=None),
                name="session_by_owner",
            ),
            models.Index(
                fields=["forked_from"], condition=models.Q(forked_from__isnull=False), name="session_forked_from"
            ),
            # The purge of deleted sessions.
            models.Index(
                fields=["deleted_at"],
                condition=models.Q(deleted_at__isnull=False),
                name="session_deleted",
            ),
        ]

    def __str__(self) -> str:
        return self.title or f"Session {str(self.id)[:8]}"

    @property
    def worked_seconds(self) -> float:
        return self.worked_ms / 1_000

    def is_expired(self, now: datetime | None = None) -> bool:
        return self.expires_at <= (now or timezone.now())

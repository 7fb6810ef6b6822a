import uuid

from django.db import models

from sessions_app.models.session import AgentSession


class RunStatus(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE_STATUSES = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.AWAITING_APPROVAL)

# Cancelled while no worker had it, and no event has told yet; the runs of a fork's past were never told in it.
UNTOLD = models.Q(status="cancelled", terminal_cursor="", cancel_requested_at__isnull=False)


class Run(models.Model):
    """One turn being executed. Its messages share its `turn`, the session's own count."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(AgentSession, models.CASCADE, related_name="runs", db_index=False)
    turn = models.PositiveIntegerField()
    status = models.CharField(max_length=20, choices=RunStatus, default=RunStatus.QUEUED)
    epoch = models.BigIntegerField(null=True, blank=True, help_text="The epoch of the newest claim.")
    attempt = models.PositiveSmallIntegerField(default=0, help_text="Claims, without those given back in good order.")
    worker = models.CharField(max_length=100, blank=True, help_text="The channel of the worker that claimed it.")
    lease_expires_at = models.DateTimeField(
        null=True, blank=True, help_text="Until then its worker need not have renewed the lease."
    )
    agent_version = models.PositiveIntegerField(
        null=True, blank=True, help_text="The version of the agent type that it works by."
    )
    agent_state = models.JSONField(
        null=True, blank=True, editable=False, help_text="What the agent goes on with after an approval."
    )
    idempotency_key = models.CharField(max_length=200, blank=True, help_text="The client's, for this message.")
    retry_of = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="retries", db_index=False)
    is_steering = models.BooleanField(default=False, help_text="May enter the running turn at its next step.")
    steered_into = models.ForeignKey(
        "self",
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
        help_text="The turn that its message entered.",
    )
    is_rolled_back = models.BooleanField(default=False, help_text="Cancelled and removed from the history.")
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    dispatched_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    claimed_at = models.DateTimeField(null=True, blank=True, help_text="When its newest attempt began.")
    finished_at = models.DateTimeField(null=True, blank=True)
    terminal_cursor = models.CharField(max_length=40, blank=True, help_text="The id of the last event.")
    error_code = models.CharField(max_length=50, blank=True)
    error_message = models.TextField(blank=True)
    input_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(default=0)
    reasoning_tokens = models.PositiveIntegerField(default=0)
    tool_call_count = models.PositiveIntegerField(default=0)
    cost = models.DecimalField(max_digits=18, decimal_places=6, default=0, db_default=0)
    waiting_position = models.PositiveIntegerField(
        null=True, blank=True, help_text="Its place among the runs that wait for a free slot, as last told."
    )

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["session", "turn"], name="run_turn_once"),
            models.UniqueConstraint(
                fields=["session", "idempotency_key"],
                condition=~models.Q(idempotency_key=""),
                name="run_idempotency_key_once",
            ),
            # Two workers can never both hold a run of one session, whatever they believe.
            models.UniqueConstraint(
                fields=["session"],
                condition=models.Q(status__in=["running", "awaiting_approval"]),
                name="run_one_active_per_session",
            ),
        ]
        indexes = [
            # The sweeper and the dashboard look only at what is not finished.
            models.Index(
                fields=["status", "created_at"],
                condition=models.Q(status__in=["queued", "running", "awaiting_approval"]),
                name="run_active",
            ),
            # What is rare costs the other rows nothing.
            models.Index(fields=["session"], condition=UNTOLD, name="run_untold"),
            models.Index(fields=["retry_of"], condition=models.Q(retry_of__isnull=False), name="run_retry_of"),
            models.Index(fields=["steered_into"], condition=models.Q(steered_into__isnull=False), name="run_steered"),
        ]

    def __str__(self) -> str:
        return f"Run {str(self.id)[:8]} ({self.status})"

    @property
    def is_finished(self) -> bool:
        return self.status not in ACTIVE_STATUSES

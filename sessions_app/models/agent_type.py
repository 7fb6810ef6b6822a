from django.core.validators import MinValueValidator
from django.db import models


class OnBusy(models.TextChoices):
    """What becomes of a message that comes while the session is busy with another."""

    REJECT = "reject", "reject: refuse it"
    ENQUEUE = "enqueue", "enqueue: answer it afterwards"
    INTERRUPT = "interrupt", "interrupt: stop the other and keep its partial answer"
    ROLLBACK = "rollback", "rollback: stop the other and remove it from the history"
    STEER = "steer", "steer: hand it to the other at its next step"


class UnknownOutcome(models.TextChoices):
    """What to do when a worker was lost in the middle of a tool that is not safe to repeat."""

    ASK = "ask", "ask: wait until a person settles it"
    TELL = "tell", "tell: let the model know that the outcome is unknown"


class AgentType(models.Model):
    """A configured agent: which runtime answers, with which model, prompt and tools."""

    name = models.SlugField(unique=True, help_text="What clients send as agent_type.")
    title = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    runtime = models.CharField(max_length=100, help_text="A name from the setting AGENT_RUNTIMES.")
    model = models.CharField(max_length=200, blank=True, help_text="Empty: the setting AGENT_MODEL.")
    system_prompt = models.TextField(blank=True)
    tools = models.JSONField(default=list, blank=True, help_text="Names from the setting AGENT_TOOLS.")
    max_steps = models.PositiveSmallIntegerField(
        default=10,
        validators=[MinValueValidator(1)],
        help_text="Model answers in one run, at most.",
    )
    max_attempts = models.PositiveSmallIntegerField(
        default=3,
        validators=[MinValueValidator(1)],
        help_text="How many workers may be lost over one run, before it fails.",
    )
    on_busy = models.CharField(
        max_length=10, choices=OnBusy, default=OnBusy.ENQUEUE, help_text="Requests may choose another."
    )
    unknown_outcome = models.CharField(
        max_length=10,
        choices=UnknownOutcome,
        default=UnknownOutcome.ASK,
        help_text="For a tool that may have been at work when its worker was lost, and is not idempotent.",
    )
    is_enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

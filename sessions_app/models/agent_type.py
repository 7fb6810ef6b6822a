from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction

from sessions_app.agent_type_rules import mistakes_in


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


class ContextStrategy(models.TextChoices):
    """What of a long conversation the model is shown."""

    COMBINED = "combined", "combined: the newest, a summary, and what fits the question"
    SLIDING_WINDOW = "sliding_window", "sliding window: the newest messages that fit"
    SUMMARIZATION = "summarization", "summarization: a summary of what no longer fits"
    IMPORTANCE = "importance", "importance: decisions, facts, questions and used results"
    HIERARCHICAL = "hierarchical", "hierarchical: summaries of turns, of days, of the session"
    RETRIEVAL = "retrieval", "retrieval: what fits the question"


class RoutingStrategy(models.TextChoices):
    """Which of the workers that offer what is required takes a run."""

    SHARED = "shared", "shared: whichever is free first"


class ApprovalPolicy(models.TextChoices):
    """Which tool calls wait for a person's approval."""

    FLAGGED = "flagged", "flagged: those of tools that say so"
    ALL = "all", "all: every call of a tool that is not idempotent"
    NONE = "none", "none: no call waits"


class OnApprovalExpiry(models.TextChoices):
    """What becomes of a call that nobody has decided in time."""

    DENY = "deny", "deny: the model is told that it was not allowed"
    CONTINUE = "continue", "continue: the tool runs as if it were approved"
    HALT = "halt", "halt: the run fails"


class AgentType(models.Model):
    """A configured agent: which runtime answers, with which model, prompt, tools and policies.

    Each change of what a run works by makes a new version; a run keeps the one that it began with.
    """

    name = models.SlugField(unique=True, help_text="What clients send as agent_type.")
    title = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    version = models.PositiveIntegerField(default=0, editable=False)
    runtime = models.CharField(max_length=100, help_text="A name from the setting AGENT_RUNTIMES.")
    model = models.CharField(
        max_length=200,
        blank=True,
        help_text="Empty: the setting AGENT_MODEL. `model@endpoint` is one of a named endpoint.",
    )
    fallback_models = models.JSONField(
        default=list, blank=True, help_text='Tried in this order when the model fails, such as ["small@local"].'
    )
    model_retries = models.PositiveSmallIntegerField(
        default=2,
        validators=[MaxValueValidator(10)],
        help_text="How often a failing model is asked again, before its first token.",
    )
    system_prompt = models.TextField(blank=True)
    context_strategy = models.CharField(max_length=30, choices=ContextStrategy, default=ContextStrategy.COMBINED)
    context_shares = models.JSONField(
        default=dict,
        blank=True,
        help_text="Instead of the strategy's own mixture: strategies and their parts of the room, such as "
        '{"sliding_window": 0.5, "retrieval": 0.5}.',
    )
    summary_model = models.CharField(
        max_length=200,
        blank=True,
        help_text="Which writes the summaries. Empty: the setting SUMMARY_MODEL; `extractive` needs no model.",
    )
    max_context_tokens = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(500)],
        help_text="Of the prompt and the answer. Empty: the setting MODEL_CONTEXT_TOKENS.",
    )
    tools = models.JSONField(default=list, blank=True, help_text="Names from the setting AGENT_TOOLS.")
    eager_tools = models.JSONField(
        default=list,
        blank=True,
        help_text="Those of the tools that are started while the model still writes; idempotent ones only.",
    )
    mcp_servers = models.JSONField(default=list, blank=True, help_text="Names of MCP servers whose tools it may use.")
    response_schema = models.JSONField(
        null=True, blank=True, help_text="A JSON schema: every final answer is a JSON object that fits it."
    )
    max_steps = models.PositiveSmallIntegerField(
        default=10,
        validators=[MinValueValidator(1)],
        help_text="Model answers in one run, at most.",
    )
    max_output_tokens = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Of one model answer. Empty: no limit."
    )
    max_run_seconds = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Of one run at work. Empty: no limit."
    )
    max_step_seconds = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Of one model answer. Empty: no limit."
    )
    max_parallel_tools = models.PositiveSmallIntegerField(
        default=8, validators=[MinValueValidator(1)], help_text="Tool calls of one answer that run at once, at most."
    )
    max_attempts = models.PositiveSmallIntegerField(
        default=3,
        validators=[MinValueValidator(1)],
        help_text="How many workers may be lost over one run, before it fails.",
    )
    routing_strategy = models.CharField(max_length=20, choices=RoutingStrategy, default=RoutingStrategy.SHARED)
    required_capabilities = models.JSONField(
        default=list,
        blank=True,
        help_text='What a worker must offer by WORKER_CAPABILITIES to take its runs, such as ["gpu"].',
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
    approval_policy = models.CharField(max_length=10, choices=ApprovalPolicy, default=ApprovalPolicy.FLAGGED)
    approval_timeout_seconds = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Empty: an approval is waited for forever."
    )
    on_approval_expiry = models.CharField(max_length=10, choices=OnApprovalExpiry, default=OnApprovalExpiry.DENY)
    is_enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @transaction.atomic
    def save(self, *args: Any, changed_by: Any = None, **kwargs: Any) -> None:
        """Save, and record a new version if what a run works by has changed."""
        if self.pk:
            current = AgentType.objects.select_for_update().filter(pk=self.pk).values_list("version", flat=True).first()
            self.version = current or 0
        super().save(*args, **kwargs)
        config = {name: getattr(self, name) for name in CONFIG_FIELDS}
        newest = self.versions.filter(version=self.version).first()
        if newest is not None and {**newest.config, "version": 0} == {**config, "version": 0}:
            return
        self.version += 1
        AgentTypeVersion.objects.create(
            agent_type=self, version=self.version, config={**config, "version": self.version}, created_by=changed_by
        )
        AgentType.objects.filter(pk=self.pk).update(version=self.version)

    def clean(self) -> None:
        """Refuse what no run could work by; raises ValidationError with the mistakes of each field."""
        if mistakes := mistakes_in(self):
            raise ValidationError(mistakes)


_NO_CONFIG = {"id", "version", "is_enabled", "created_at", "updated_at"}
CONFIG_FIELDS = [each.name for each in AgentType._meta.concrete_fields if each.name not in _NO_CONFIG]


class AgentTypeVersion(models.Model):
    """What an agent type was at one time; never changed."""

    agent_type = models.ForeignKey(AgentType, models.CASCADE, related_name="versions", db_index=False)
    version = models.PositiveIntegerField()
    config = models.JSONField(help_text="The agent type's fields.")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+", db_index=False
    )

    class Meta:
        ordering = ["-version"]
        constraints = [models.UniqueConstraint(fields=["agent_type", "version"], name="agent_type_version_once")]

    def __str__(self) -> str:
        return f"{self.agent_type} v{self.version}"

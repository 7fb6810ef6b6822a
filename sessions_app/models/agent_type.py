from django.core.validators import MinValueValidator
from django.db import models


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
    is_enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from sessions_app.mcp_rules import mistakes_in


class McpTransport(models.TextChoices):
    HTTP = "http", "streamable HTTP"
    STDIO = "stdio", "stdio: a command on the workers' machine"


class McpServer(models.Model):
    """A server of the Model Context Protocol, whose tools agent types may use as `<name>_<tool>`."""

    name = models.SlugField(unique=True, max_length=40, help_text="Prefix of its tools' names.")
    transport = models.CharField(max_length=10, choices=McpTransport, default=McpTransport.HTTP)
    url = models.URLField(blank=True, max_length=500, help_text="For HTTP.")
    headers = models.JSONField(
        default=dict,
        blank=True,
        help_text='For HTTP, such as {"Authorization": "Bearer $MY_TOKEN"}. $NAME is read from the workers\' '
        "environment, if MCP_ENVIRONMENT names it: no secret stands here.",
    )
    command = models.JSONField(
        default=list,
        blank=True,
        help_text='For stdio: the command and its arguments, such as ["uvx", "mcp-server-time"]. The setting '
        "MCP_COMMANDS names those that are allowed.",
    )
    allowed_tools = models.JSONField(default=list, blank=True, help_text="Names of its tools. Empty: all.")
    idempotent_tools = models.JSONField(
        default=list, blank=True, help_text="Those that may be repeated without harm, if the server does not say so."
    )
    approval_tools = models.JSONField(default=list, blank=True, help_text="Those that wait for a person's approval.")
    timeout_seconds = models.PositiveSmallIntegerField(
        default=30, validators=[MinValueValidator(1), MaxValueValidator(3_600)], help_text="Of one tool call."
    )
    listed_tools = models.JSONField(default=list, editable=False, help_text="What it offered when it was last seen.")
    last_seen_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_error = models.TextField(blank=True, editable=False, help_text="Why it could not be used last, if so.")
    is_enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        verbose_name = "MCP server"

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if mistakes := mistakes_in(self):
            raise ValidationError(mistakes)

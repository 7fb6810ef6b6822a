"""An agent type's configuration as one run sees it: a snapshot that no later edit changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class AgentConfig:
    """The fields of an AgentType that a run works by; see there what each means. Lists are names."""

    name: str
    version: int = 1
    runtime: str = ""
    model: str = ""
    fallback_models: list[str] = field(default_factory=list)
    model_retries: int = 2
    system_prompt: str = ""
    context_strategy: str = "combined"
    context_shares: dict[str, float] = field(default_factory=dict)
    summary_model: str = ""
    max_context_tokens: int | None = None
    tools: list[str] = field(default_factory=list)
    eager_tools: list[str] = field(default_factory=list)
    mcp_servers: list[str] = field(default_factory=list)
    response_schema: dict[str, Any] | None = None
    max_steps: int = 10
    max_output_tokens: int | None = None
    max_run_seconds: int | None = None
    max_step_seconds: int | None = None
    max_parallel_tools: int = 8
    unknown_outcome: str = "ask"
    approval_policy: str = "flagged"
    approval_timeout_seconds: int | None = None
    on_approval_expiry: str = "deny"

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "AgentConfig":
        """A stored snapshot; what an older one lacks has its default, what only a newer one has is left out."""
        return cls(**{name: config[name] for name in _NAMES if name in config})


_NAMES = tuple(each.name for each in fields(AgentConfig))

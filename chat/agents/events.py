"""What an agent yields while it works. The run records it and tells the clients."""

from dataclasses import dataclass, field
from typing import Any

from sessions_app.services.recording import Usage


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of reasoning."""

    content: str


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer."""

    content: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The agent is about to call a tool. It is on record before the agent goes on."""

    id: str
    tool: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool call came to; `result` is any JSON value."""

    id: str
    tool: str
    result: Any
    is_error: bool = False
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """The model has finished one answer: the tools that it asks for, and the tokens that it used.

    What an agent yields with several calls goes on record at once, before any of them starts.
    """

    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None


AgentEvent = Thought | Text | ToolCall | ToolResult | ModelAnswer

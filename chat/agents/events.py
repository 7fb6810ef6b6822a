"""What an agent yields while it works. The run records it and tells the clients."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from sessions_app.services.recording import Usage

MALFORMED = "malformed_arguments"  # the one argument of a call whose arguments are no JSON object: their text


def read_arguments(text: str) -> dict[str, Any]:
    """The arguments as the model wrote them; what is no JSON object goes to the tool's check as such."""
    try:
        arguments = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {MALFORMED: text}
    return arguments if isinstance(arguments, dict) else {MALFORMED: text}


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
    """What a tool call came to; `result` is any JSON value. `stored` is the whole of it as text, where `result` only
    refers to it."""

    id: str
    tool: str
    result: Any
    is_error: bool = False
    duration_ms: int | None = None
    stored: str = ""


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """The model has finished one answer: the tools that it asks for, and the tokens that it used.

    What an agent yields with several calls goes on record at once, before any of them starts. `finish_reason` is
    `stop` or `tool_calls` as a rule; `length`, `content_filter` and `refusal` are told to the client.
    """

    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    finish_reason: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """Something that whoever watches may want to know, such as a retry; `data` is told as it is."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ApprovalRequired:
    """The agent cannot go on before a person has decided about these calls: the run is parked, its worker released.

    It ends this `stream`. Another one goes on later, with the decisions, and with `state` (any JSON value) as
    `context.agent_state`.
    """

    calls: tuple[ToolCall, ...]
    state: Any = None


AgentEvent = Thought | Text | ToolCall | ToolResult | ModelAnswer | Status | ApprovalRequired

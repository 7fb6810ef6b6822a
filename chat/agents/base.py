"""The agent seam: an agent is anything with `stream(context)`, an async iterator of events."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from chat.agents.events import AgentEvent, ToolCall
from chat.agents.tools.base import Ledger, NoLedger, Tool
from sessions_app.errors import AgentsiteError
from sessions_app.prompt import PromptMessage


@dataclass(frozen=True)
class AgentConfig:
    """The agent type that the run was started with."""

    name: str
    model: str
    system_prompt: str
    max_steps: int


async def _nothing() -> list[str]:
    return []


@dataclass(frozen=True)
class RunContext:
    """What an agent is given for one turn.

    `messages` is the prepared context, oldest first: earlier turns as far as they fit, the user's message,
    and, when a run is taken over, the steps of this turn that are done. `pending` are those steps' tool calls that
    have no result yet and are to be run (again) first. Tools that are not idempotent are announced to the `ledger`
    before they start. `take_steering` gives, between two steps, what the user has sent meanwhile for this turn.
    """

    run_id: uuid.UUID
    session_id: uuid.UUID
    agent: AgentConfig
    message: str
    messages: Sequence[PromptMessage]
    tools: dict[str, Tool] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    pending: tuple[ToolCall, ...] = ()
    ledger: Ledger = field(default_factory=NoLedger)
    take_steering: Callable[[], Awaitable[list[str]]] = _nothing


class Agent(Protocol):
    """Made once per process, without arguments; `stream` is called once per turn, many at a time."""

    def stream(self, context: RunContext) -> AsyncIterator[AgentEvent]: ...


class AgentError(AgentsiteError):
    """The agent failed."""

    code = "agent_error"
    status = 502


class ModelError(AgentError):
    """The model's server failed."""

    code = "model_error"


class StepLimitError(AgentError):
    """The agent took more steps than its type allows."""

    code = "step_limit"

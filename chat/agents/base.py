"""The agent seam: an agent is anything with `stream(context)`, an async iterator of events."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from chat.agents.events import AgentEvent, ToolCall
from chat.agents.tools.base import Ledger, NoLedger, NoToolRate, Tool, ToolRate
from sessions_app.agent_config import AgentConfig
from sessions_app.errors import AgentsiteError
from sessions_app.models import ApprovalPolicy
from sessions_app.prompt import PromptMessage


@dataclass(frozen=True)
class Approval:
    """What was decided about a call that an agent had asked about. `args` are those to run it with."""

    is_approved: bool
    args: dict[str, Any]
    reason: str = ""  # of a denial, in a sentence for the model


async def _nothing() -> list[str]:
    return []


async def _unlimited() -> int:
    return 0


@dataclass(frozen=True)
class RunContext:
    """What an agent is given for one turn.

    `messages` is the prepared context, oldest first: earlier turns as far as they fit, the user's message,
    and, when a run is taken over, the steps of this turn that are done. `pending` are those steps' tool calls that
    have no result yet and are to be run (again) first. Tools that are not idempotent are announced to the `ledger`
    before they start, and all calls are counted by `tool_rate`. `take_steering` gives, between two steps, what the user
    has sent meanwhile for this turn.

    Each model call is reserved in the budgets that apply before it begins. `reserve` sees to it if that was not done
    yet, and tells how many tokens the answer may have, 0 if there is no limit; it raises BudgetExceededError, which is
    to travel on.

    `approvals` are the decisions, by call id, about calls that were asked about in this turn; `agent_state` is what the
    agent left behind when it asked.
    """

    run_id: uuid.UUID
    session_id: uuid.UUID
    agent: AgentConfig
    message: str
    messages: Sequence[PromptMessage]
    tools: dict[str, Tool] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    pending: tuple[ToolCall, ...] = ()
    approvals: dict[str, Approval] = field(default_factory=dict)
    agent_state: Any = None
    max_prompt_tokens: int = 0  # 0: nobody has counted
    prompt_tokens: int = 0  # of the messages, the system prompt and the tools
    ledger: Ledger = field(default_factory=NoLedger)
    tool_rate: ToolRate = field(default_factory=NoToolRate)
    take_steering: Callable[[], Awaitable[list[str]]] = _nothing
    reserve: Callable[[], Awaitable[int]] = _unlimited

    def needs_approval(self, call: ToolCall) -> bool:
        """Whether a person has to allow this call before its tool may start."""
        tool = self.tools.get(call.tool)
        if tool is None or self.agent.approval_policy == ApprovalPolicy.NONE or call.id in self.approvals:
            return False
        if self.agent.approval_policy == ApprovalPolicy.ALL:
            return not tool.is_idempotent or tool.needs_approval
        return tool.needs_approval


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


class SchemaViolationError(AgentError):
    """The answer does not fit the agent type's response schema."""

    code = "schema_violation"


class RunTimeoutError(AgentError):
    """The run took longer than its agent type allows."""

    code = "run_timeout"


class StepTimeoutError(AgentError):
    """An answer of the model took longer than the agent type allows."""

    code = "step_timeout"


class ToolRateError(AgentError):
    """The session may make no more tool calls now."""

    code = "tool_rate_limited"

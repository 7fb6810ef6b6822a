"""How many tokens the conversation may take of a model's context."""

from dataclasses import dataclass

from sessions_app.agent_config import AgentConfig
from sessions_app.context_budget import context_limit, reserve_of
from sessions_app.errors import AgentsiteError
from sessions_app.token_counting import message_tokens

MIN_ROOM = 64  # below it no message can be shown, not even a cut one


class ContextTooSmallError(AgentsiteError):
    """What always stands in the prompt leaves no room for a message."""

    code = "context_too_small"
    status = 409


@dataclass(frozen=True)
class Budget:
    """In tokens as they are counted here. `ratio` is the provider's count to ours; `limit` allows for it."""

    limit: int
    reserve: int
    system: int
    tools: int
    ratio: float = 1.0

    @property
    def room(self) -> int:
        """For the conversation: what is pinned, remembered and said."""
        return self.limit - self.reserve - self.system - self.tools

    def require_room(self, pinned_tokens: int) -> int:
        """What is left beside the pinned messages; raises ContextTooSmallError if that is too little."""
        left = self.room - pinned_tokens
        if left < MIN_ROOM:
            raise ContextTooSmallError(
                f"The system prompt ({self.system} tokens), the tools ({self.tools}) and the pinned messages "
                f"({pinned_tokens}) leave {max(left, 0)} of {self.limit - self.reserve} tokens for the conversation. "
                "Unpin messages, or give the agent type a larger max_context_tokens."
            )
        return left


def budget_of(agent: AgentConfig, *, tool_tokens: int = 0, ratio: float = 1.0) -> Budget:
    limit = int(context_limit(agent.max_context_tokens) / ratio)
    system = message_tokens(agent.system_prompt) if agent.system_prompt else 0
    return Budget(limit, reserve_of(limit), system, tool_tokens, ratio)

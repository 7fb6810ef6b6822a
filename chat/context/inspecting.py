"""What the model would be sent for a message, and why: for people who look."""

from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.utils import timezone

from chat.agents.registry import tools_for
from chat.context.budget import budget_of
from chat.context.calibration import ratio_of
from chat.context.combined import shares_of
from chat.context.preparing import Question, prepare, with_message
from sessions_app import memory
from sessions_app.agent_config import AgentConfig
from sessions_app.models import AgentSession, AgentTypeVersion, McpServer, Role
from sessions_app.prompt import PromptMessage, newest_messages
from sessions_app.token_counting import message_tokens

_OF_MCP = "The tools of MCP servers are counted when a run begins, not here."


def inspect_context(session: AgentSession, message: str) -> dict[str, Any]:
    """The context of the session's next turn as JSON; raises ContextTooSmallError, AgentError."""
    agent = _agent_of(session)
    turn = session.next_turn
    model = agent.model or settings.AGENT_MODEL
    tool_tokens = sum(tool.token_count for tool in tools_for(agent.tools).values())
    budget = budget_of(agent, tool_tokens=tool_tokens, ratio=ratio_of(model))
    asked = PromptMessage(
        0, turn, 0, Role.USER.value, message, (), "", message_tokens(message) if message else 0, timezone.now()
    )
    newest = newest_messages(session.pk, turn=turn - 1, max_tokens=budget.room)
    question = Question(session.pk, turn, agent, with_message(newest, asked))
    prepared = async_to_sync(prepare)(question, budget)
    volume = memory.volume(session.pk, turn=turn)
    shown = prepared.shown_tokens()
    return {
        "strategy": agent.context_strategy,
        "shares": {str(name): share for name, share in shares_of(agent).items()},
        "model": model,
        "limit": budget.limit,
        "reserve": budget.reserve,
        "ratio": round(budget.ratio, 3),
        "tokens": prepared.tokens,
        "is_whole": prepared.is_whole,
        "parts": prepared.parts(),
        "left_out": {
            "messages": volume.messages - len(prepared.shown_ids() - {0}),
            "tokens": max(0, volume.tokens - shown),
        },
        "notes": [*prepared.notes, *([_OF_MCP] if agent.mcp_servers and McpServer.objects.exists() else [])],
    }


def _agent_of(session: AgentSession) -> AgentConfig:
    version = AgentTypeVersion.objects.get(agent_type=session.agent_type, version=session.agent_type.version)
    return AgentConfig.from_json(version.config)

from sessions_app.models.agent_type import AgentType, OnBusy, UnknownOutcome
from sessions_app.models.event import Event
from sessions_app.models.message import Message, Role
from sessions_app.models.run import Run, RunStatus
from sessions_app.models.session import AgentSession
from sessions_app.models.token import ApiToken, LoginLink
from sessions_app.models.tool_call import Decision, ToolCall, ToolCallStatus
from sessions_app.models.usage import UsageRecord

__all__ = [
    "AgentSession",
    "AgentType",
    "ApiToken",
    "Decision",
    "Event",
    "LoginLink",
    "Message",
    "OnBusy",
    "Role",
    "Run",
    "RunStatus",
    "ToolCall",
    "ToolCallStatus",
    "UnknownOutcome",
    "UsageRecord",
]

from sessions_app.models.agent_type import (
    AgentType,
    AgentTypeVersion,
    ApprovalPolicy,
    ContextStrategy,
    OnApprovalExpiry,
    OnBusy,
    RoutingStrategy,
    UnknownOutcome,
)
from sessions_app.models.event import Event
from sessions_app.models.mcp_server import McpServer, McpTransport
from sessions_app.models.memory import IndexEntry, Summary, SummaryLevel
from sessions_app.models.message import Message, Role
from sessions_app.models.run import Run, RunStatus
from sessions_app.models.session import AgentSession
from sessions_app.models.token import ApiToken, LoginLink
from sessions_app.models.tool_call import Decision, ToolCall, ToolCallDecision, ToolCallStatus
from sessions_app.models.usage import UsagePurpose, UsageRecord

__all__ = [
    "AgentSession",
    "AgentType",
    "AgentTypeVersion",
    "ApiToken",
    "ApprovalPolicy",
    "ContextStrategy",
    "Decision",
    "Event",
    "IndexEntry",
    "LoginLink",
    "McpServer",
    "McpTransport",
    "Message",
    "OnApprovalExpiry",
    "OnBusy",
    "Role",
    "RoutingStrategy",
    "Run",
    "RunStatus",
    "Summary",
    "SummaryLevel",
    "ToolCall",
    "ToolCallDecision",
    "ToolCallStatus",
    "UnknownOutcome",
    "UsagePurpose",
    "UsageRecord",
]

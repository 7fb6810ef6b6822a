"""The family of errors that a caller can handle: a stable `code`, a status, and a message for people.

Raised by services and queries, turned into a REST answer, an SSE or a WebSocket event in one place each.
"""

from typing import Any


class AgentsiteError(Exception):
    """Something went wrong."""

    code = "error"
    status = 500

    def __init__(self, message: str = "", *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())
        self.retry_after_seconds = retry_after_seconds

    @property
    def message(self) -> str:
        return str(self.args[0])

    def as_json(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message}}


class InvalidRequestError(AgentsiteError):
    """The request is not valid."""

    code = "invalid_request"
    status = 400


class NotFoundError(AgentsiteError):
    """There is nothing here."""

    code = "not_found"
    status = 404


class MalformedJSONError(AgentsiteError):
    """The body is not valid JSON."""

    code = "malformed_json"
    status = 400


class InvalidCursorError(AgentsiteError):
    """A cursor has the form <epoch>-<n>, as in an event's id."""

    code = "invalid_cursor"
    status = 400


class StateTooLargeError(AgentsiteError):
    """The state document would become too large."""

    code = "state_too_large"
    status = 413


class UnknownAgentTypeError(AgentsiteError):
    """There is no such agent type."""

    code = "unknown_agent_type"
    status = 400


class AgentUnavailableError(AgentsiteError):
    """This agent type cannot answer now."""

    code = "agent_unavailable"
    status = 409


class NotAuthenticatedError(AgentsiteError):
    """Log in or send a valid bearer token."""

    code = "not_authenticated"
    status = 401


class CrossOriginError(AgentsiteError):
    """A login cookie counts only from the site's own pages."""

    code = "cross_origin"
    status = 403


class SessionNotFoundError(AgentsiteError):
    """There is no such session."""

    code = "session_not_found"
    status = 404


class RunNotFoundError(AgentsiteError):
    """There is no such run."""

    code = "run_not_found"
    status = 404


class RunNotActiveError(AgentsiteError):
    """Nothing is running in this session."""

    code = "no_active_run"
    status = 409


class SessionBusyError(AgentsiteError):
    """A turn is running in this session."""

    code = "session_busy"
    status = 409


class RunNotRetryableError(AgentsiteError):
    """Only a failed or cancelled run can be retried, once."""

    code = "run_not_retryable"
    status = 409


class IdempotencyKeyReusedError(AgentsiteError):
    """This idempotency key was used for another message."""

    code = "idempotency_key_reused"
    status = 422


class PinnedTooLargeError(AgentsiteError):
    """The pinned messages would take too much of the context."""

    code = "pinned_too_large"
    status = 409


class SummaryNotFoundError(AgentsiteError):
    """There is no such summary."""

    code = "summary_not_found"
    status = 404


class MessageNotFoundError(AgentsiteError):
    """There is no such message in this session."""

    code = "message_not_found"
    status = 404


class ToolCallNotFoundError(AgentsiteError):
    """There is no such tool call in this run."""

    code = "tool_call_not_found"
    status = 404


class CallNotOpenError(AgentsiteError):
    """This tool call does not wait for a decision."""

    code = "tool_call_not_open"
    status = 409


class SessionExpiredError(AgentsiteError):
    """The session has expired."""

    code = "session_expired"
    status = 410


class SessionTimeoutError(AgentsiteError):
    """The runs of this session have been at work for as long as they may; an operator can give it time again."""

    code = "session_timeout"
    status = 409


class MessageTooLargeError(AgentsiteError):
    """The message is too large."""

    code = "message_too_large"
    status = 413


class RequestTooLargeError(AgentsiteError):
    """The request is too large."""

    code = "request_too_large"
    status = 413


class QueueFullError(AgentsiteError):
    """Too many messages wait in this session."""

    code = "queue_full"
    status = 429


class RateLimitedError(AgentsiteError):
    """Too many requests."""

    code = "rate_limited"
    status = 429


class CancelRequestedError(AgentsiteError):
    """Somebody has asked to stop this run."""

    code = "cancel_requested"


class StaleEpochError(AgentsiteError):
    """Another worker has claimed this session's run."""

    code = "stale_epoch"
    status = 409


class UnavailableError(AgentsiteError):
    """A part of the system is down; try again shortly."""

    code = "unavailable"
    status = 503

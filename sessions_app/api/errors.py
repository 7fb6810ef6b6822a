"""The one translator from errors to REST answers: `{"error": {"code", "message"}}` with the right status."""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404
from psycopg_pool import PoolTimeout
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from sessions_app.errors import AgentsiteError, NotFoundError, RequestTooLargeError, UnavailableError

logger = logging.getLogger(__name__)

_CODES: dict[type[exceptions.APIException], str] = {
    exceptions.ParseError: "malformed_body",
    exceptions.AuthenticationFailed: "not_authenticated",
    exceptions.NotAuthenticated: "not_authenticated",
    exceptions.PermissionDenied: "permission_denied",
    exceptions.NotFound: "not_found",
    exceptions.MethodNotAllowed: "method_not_allowed",
    exceptions.NotAcceptable: "not_acceptable",
    exceptions.UnsupportedMediaType: "unsupported_media_type",
    exceptions.Throttled: "rate_limited",
}
RETRY_AFTER_SECONDS = 2


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook. None lets the unexpected travel on to Django, which logs it once."""
    set_rollback()
    if isinstance(error, exceptions.ValidationError):
        fields = error.detail if isinstance(error.detail, dict) else None  # else it is the body as a whole
        return _answer("invalid_request", first_message(error.detail), 400, fields=fields)
    if isinstance(error, exceptions.APIException):
        return _api_exception(error)
    known = _known(error)
    return _answer(known.code, known.message, known.status, known.retry_after_seconds) if known else None


def _known(error: Exception) -> AgentsiteError | None:
    if isinstance(error, AgentsiteError):
        return error
    if isinstance(error, RequestDataTooBig):
        return RequestTooLargeError()
    if isinstance(error, Http404):
        return NotFoundError()
    if isinstance(error, PermissionDenied):
        return _FromDjango("permission_denied", "You may not do this.", 403)
    if isinstance(error, SuspiciousOperation):
        return _FromDjango("invalid_request", "The request is not valid.", 400)
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        logger.error("The database does not answer: %s", str(error).partition("\n")[0])
        return UnavailableError(retry_after_seconds=RETRY_AFTER_SECONDS)
    return None


class _FromDjango(AgentsiteError):
    """One of Django's own exceptions, in our form."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(message)
        self.code, self.status = code, status


def _api_exception(error: exceptions.APIException) -> Response:
    code = next((name for kind, name in _CODES.items() if isinstance(error, kind)), "error")
    message = first_message(error.detail)
    if message.startswith("CSRF Failed"):  # DRF has no exception of its own for it
        code = "csrf_failed"
    response = _answer(code, message, error.status_code)
    if header := getattr(error, "auth_header", None):
        response["WWW-Authenticate"] = header
    if (wait := getattr(error, "wait", None)) is not None:
        response["Retry-After"] = str(max(1, round(wait)))
    return response


def _answer(
    code: str, message: str, status: int, retry_after_seconds: int | None = None, fields: Any = None
) -> Response:
    error = {"code": code, "message": message}
    if fields is not None:
        error["fields"] = fields
    response = Response({"error": error}, status=status)
    if retry_after_seconds is not None:
        response["Retry-After"] = str(retry_after_seconds)
    return response


def first_message(detail: Any, name: str = "") -> str:
    """The first of DRF's nested messages as one sentence, with its field."""
    if isinstance(detail, dict):
        key, value = next(iter(detail.items()), ("", "The request is not valid."))
        return first_message(value, name if key == "non_field_errors" else str(key))
    if isinstance(detail, list):
        return first_message(detail[0], name) if detail else "The request is not valid."
    return f"{name}: {detail}" if name else str(detail)

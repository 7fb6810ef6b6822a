"""The rate of requests over HTTP: counted, refused with 429, and told in the headers of every answer."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle

from monitoring.rates import Decision, address_buckets, caller_buckets, take_request
from sessions_app.api import errors
from sessions_app.services.tokens import Bearer


class RequestRateThrottle(BaseThrottle):
    """Of the user, of the token if it has a limit of its own, or of the address of an anonymous caller."""

    _decision: Decision | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        self._decision = _count(request, view)
        return self._decision is None or self._decision.is_allowed

    def wait(self) -> float | None:
        return self._decision.wait_seconds if self._decision else None


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook. What was refused before it came to the throttle, as for a wrong token, counts for its address."""
    view = context["view"]
    if view.throttle_classes and not getattr(view, "is_counted", False):
        decision = _count_address(context["request"], view)
        if decision is not None and not decision.is_allowed:
            error = Throttled(decision.wait_seconds)
    return errors.exception_handler(error, context)


def _count(request: Request, view: Any) -> Decision | None:
    view.is_counted = True  # also when Redis does not answer: nobody waits for it twice
    if not request.user.is_authenticated:
        return _count_address(request, view)
    bearer = request.auth if isinstance(request.auth, Bearer) else None
    return _tell(take_request(caller_buckets(request.user, bearer)), view)


def _count_address(request: Request, view: Any) -> Decision | None:
    return _tell(take_request(address_buckets(request.META.get("REMOTE_ADDR", ""))), view)


def _tell(decision: Decision | None, view: Any) -> Decision | None:
    if decision is not None:
        view.headers.update(decision.headers)  # which DRF and chat/sse.py put into the answer
    return decision


View = Callable[..., HttpResponseBase]


def limit_attempts(refuse: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[View], View]:
    """For a form of secrets: what is posted counts for its address, and `refuse` answers when that is too much."""

    def decorate(view: View) -> View:
        @wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if request.method != "POST":
                return view(request, *args, **kwargs)
            decision = take_request(address_buckets(request.META.get("REMOTE_ADDR", "")))
            is_allowed = decision is None or decision.is_allowed
            response = view(request, *args, **kwargs) if is_allowed else refuse(request)
            if decision is not None:
                headers = decision.headers if is_allowed else decision.headers | {"Retry-After": decision.retry_after}
                for name, value in headers.items():
                    response[name] = value
            return response

        return wrapped

    return decorate

"""What is refused before any view sees it."""

from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.utils.decorators import sync_and_async_middleware

from agentsite.errors import bad_request


@sync_and_async_middleware  # type: ignore[untyped-decorator]
def refuse_nul(get_response: Any) -> Any:
    """A NUL in an address is nobody's search: PostgreSQL keeps none and raises at the sight of one."""
    if iscoroutinefunction(get_response):

        async def refuse_async(request: HttpRequest) -> Any:
            return _refusal(request) or await get_response(request)

        return refuse_async

    def refuse(request: HttpRequest) -> Any:
        return _refusal(request) or get_response(request)

    return refuse


def _refusal(request: HttpRequest) -> Any:
    has_nul = "\x00" in request.path_info or "%00" in request.META.get("QUERY_STRING", "")
    return bad_request(request, ValueError("NUL")) if has_nul else None

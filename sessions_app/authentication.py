"""Who is calling: a bearer token (REST, SSE, WebSocket) or a short-lived ticket (WebSocket)."""

from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user, get_user_model
from django.core import signing
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from sessions_app.services.tokens import Bearer, find_bearer

_TICKET_SALT = "websocket-ticket"


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>`."""

    keyword = "Bearer"

    def authenticate(self, request: Request) -> tuple[Any, Bearer] | None:
        parts = get_authorization_header(request).split()
        if not parts or parts[0].lower() != b"bearer":
            return None
        plaintext = parts[1].decode("latin-1") if len(parts) == 2 else ""
        bearer = find_bearer(plaintext)
        if bearer is None:
            raise AuthenticationFailed("The bearer token is not valid.")
        return bearer.owner, bearer

    def authenticate_header(self, request: Request) -> str:
        return self.keyword


def attach_login(request: HttpRequest) -> None:
    """Give a request that came past the middleware its login session and the user of it."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    request.session = store(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
    request.user = get_user(request)


def create_ticket(user: Any) -> str:
    """A ticket that opens a WebSocket as this user for WEBSOCKET_TICKET_SECONDS, for URLs that may be logged."""
    return signing.dumps(user.pk, salt=_TICKET_SALT)


def user_of_ticket(ticket: str) -> Any | None:
    try:
        pk = signing.loads(ticket, salt=_TICKET_SALT, max_age=settings.WEBSOCKET_TICKET_SECONDS)
    except signing.BadSignature:
        return None
    return get_user_model().objects.filter(pk=pk, is_active=True).first()

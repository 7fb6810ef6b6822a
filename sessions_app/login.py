"""The view behind a one-time login link."""

from django.conf import settings
from django.contrib.auth import login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from sessions_app.services.login_links import use_login_link


@never_cache
@require_GET
def login_once(request: HttpRequest, secret: str) -> HttpResponse:
    """Log the link's user in, the first time it is opened."""
    user = use_login_link(secret=secret)
    if user is None:
        return render(request, "registration/link_used.html", status=410)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return redirect(settings.LOGIN_REDIRECT_URL)

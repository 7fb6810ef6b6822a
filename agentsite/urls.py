"""Every address of the site. The streaming ones are answered before Django: chat/streaming_urls.py."""

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from agentsite.errors import too_many_requests
from monitoring.throttling import limit_attempts
from sessions_app.login import login_once

limited = limit_attempts(too_many_requests)

urlpatterns = [
    path("", include("chat.page_urls")),
    path("", include("chat.urls")),
    path("", include("sessions_app.api.urls")),
    path("", include("monitoring.urls")),
    path("login/", limited(auth_views.LoginView.as_view(redirect_authenticated_user=True)), name="login"),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
    path("login/once/<str:secret>", login_once, name="login-once"),
    re_path(r"^schema/?$", SpectacularAPIView.as_view(), name="schema"),
    re_path(r"^docs/?$", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("favicon.ico", RedirectView.as_view(url=f"{settings.STATIC_URL}chat/icon.svg")),
    path("admin/login/", limited(admin.site.login)),
    path("admin/", admin.site.urls),
]
handler400 = "agentsite.errors.bad_request"
handler404 = "agentsite.errors.not_found"
handler500 = "agentsite.errors.server_error"

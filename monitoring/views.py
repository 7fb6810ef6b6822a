"""Health and metrics over HTTP."""

from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from prometheus_client import CONTENT_TYPE_LATEST
from rest_framework.permissions import AllowAny, BasePermission, IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from monitoring.health import check_all, is_serving
from monitoring.metrics import render_metrics


class PublicView(APIView):
    """For probes: no login, no throttle, no database on the way in."""

    authentication_classes: list[Any] = []
    permission_classes = [AllowAny]
    throttle_classes: list[Any] = []


class HealthView(PublicView):
    """The gateway answers."""

    @extend_schema(operation_id="health", tags=["health"], summary="Is the gateway there", responses={200: dict})
    def get(self, request: Request) -> Response:
        return Response({"status": "healthy", "timestamp": timezone.now()})


class DetailedHealthView(PublicView):
    """Every part that the site needs. 503 when one is down without which nothing works."""

    @extend_schema(
        operation_id="health_detailed",
        tags=["health"],
        summary="Is every part there",
        responses={200: dict, 503: dict},
    )
    def get(self, request: Request) -> Response:
        report = check_all()
        body = {"status": report["status"], "timestamp": timezone.now(), "checks": report["checks"]}
        return Response(body, status=200 if is_serving(report) else 503)


class MetricsView(APIView):
    """Prometheus metrics, for staff; for everybody with METRICS_PUBLIC."""

    throttle_classes: list[Any] = []

    def get_permissions(self) -> list[BasePermission]:
        return [AllowAny() if settings.METRICS_PUBLIC else IsAdminUser()]

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        return super().perform_content_negotiation(request, force=True)  # Prometheus asks for its own types

    @extend_schema(
        operation_id="metrics",
        tags=["health"],
        summary="Prometheus metrics",
        responses={(200, "text/plain"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(render_metrics(), content_type=CONTENT_TYPE_LATEST)

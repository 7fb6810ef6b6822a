"""Errors outside REST views: JSON for programs, a page for people."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, 400, "invalid_request", "The request is not valid: its address or a header makes no sense.")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _answer(request, 404, "not_found", "There is nothing here.")


def server_error(request: HttpRequest) -> HttpResponse:
    return _answer(request, 500, "internal_error", "Something went wrong on our side. It is logged.")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _answer(request, 403, "csrf_failed", "The form has expired or came from another site. Load it again.")


def too_many_requests(request: HttpRequest) -> HttpResponse:
    return _answer(request, 429, "rate_limited", "Too many attempts from your network. Try again in a minute.")


def _answer(request: HttpRequest, status: int, code: str, message: str) -> HttpResponse:
    if "text/html" in request.headers.get("Accept", ""):
        return render(request, "error.html", {"status": status, "message": message}, status=status)
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)

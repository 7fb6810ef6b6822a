"""The chat page, rendered by the server; what happens afterwards comes over the WebSocket."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from itertools import groupby
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.csrf import ensure_csrf_cookie

from sessions_app import queries
from sessions_app.access import get_session
from sessions_app.errors import SessionNotFoundError
from sessions_app.models import AgentSession, Message, Role, Run, RunStatus, Summary
from sessions_app.models.run import ACTIVE_STATUSES
from sessions_app.services.summaries import summaries_of

SESSIONS_SHOWN = 30
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass
class Call:
    """A tool call as its card shows it."""

    id: str = ""
    name: str = ""
    args: str = ""
    result: str = ""
    state: str = ""
    is_error: bool = False


@dataclass
class Entry:
    """A message as the page shows it; tool results stand on their calls' cards. `run` is its turn's.

    `summaries` are those that the agent reads since this answer.
    """

    id: int | str = ""
    run: UUID | str = ""
    role: str = Role.ASSISTANT.value
    content: str = ""
    thought: str = ""
    note: str = ""
    is_failure: bool = False
    is_retryable: bool = False
    is_pinned: bool = False
    calls: list[Call] = field(default_factory=list)
    created_at: datetime | None = None
    summaries: list[Summary] = field(default_factory=list)


def page(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A view of this page: for logged-in people, with nothing loaded from elsewhere."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        response["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
        return response

    return login_required(ensure_csrf_cookie(wrapped))


@page
def home(request: HttpRequest) -> HttpResponse:
    """The newest conversation, or the start of a first one."""
    newest = queries.sessions_of(request.user).first()
    if newest is None or request.GET.get("q"):
        return _render(request, None)
    return redirect("chat-session", session_id=newest.pk)


@page
def new(request: HttpRequest) -> HttpResponse:
    """The start of a conversation: its session is opened by the first message."""
    return _render(request, None)


@page
def conversation(request: HttpRequest, session_id: str) -> HttpResponse:
    try:
        return _render(request, get_session(request.user, session_id))
    except SessionNotFoundError as error:
        raise Http404 from error


def _render(request: HttpRequest, session: AgentSession | None) -> HttpResponse:
    search = request.GET.get("q", "").strip()
    shown = _shown(request)
    sessions = list(queries.sessions_of(request.user, search=search)[: shown + 1])
    more = {"q": search, "shown": shown + SESSIONS_SHOWN}
    context: dict[str, Any] = {
        "sessions": sessions[:shown],
        "more_url": f"?{urlencode(more)}" if len(sessions) > shown else "",
        "search": search,
        "session": session,
        "agents": queries.enabled_agent_types(),
        "default_agent": settings.DEFAULT_AGENT_TYPE,
        "empty_entry": Entry(),
        "empty_call": Call(),
        "empty_summary": {},
    }
    if session is not None:
        history = queries.history(session)
        context["history"] = history
        turns = Run.objects.filter(session=session, turn__in={message.turn for message in history.messages})
        context["entries"] = as_entries(history.messages, {run.turn: run for run in turns})
        context["new_summaries"] = place_summaries(context["entries"], summaries_of(session))
        active = list(Run.objects.filter(session=session, status__in=ACTIVE_STATUSES).order_by("turn"))
        context["is_active"] = bool(active)
        context["current_run"] = next((run.pk for run in active if run.started_at), "")
    return render(request, "chat/page.html", context)


def _shown(request: HttpRequest) -> int:
    asked = request.GET.get("shown", "")
    return min(int(asked), 1_000) if asked.isdecimal() and len(asked) < 5 else SESSIONS_SHOWN


def as_entries(messages: list[Message], runs: dict[int, Run]) -> list[Entry]:
    """`runs` are those of the messages' turns."""
    entries: list[Entry] = []
    for turn, group in groupby(messages, key=lambda message: message.turn):
        entries += _turn(list(group), runs[turn])
    return entries


def place_summaries(entries: list[Entry], summaries: list[Summary]) -> list[Summary]:
    """Put each summary before the first answer that was given by it, where the clients were told of it. Returns those
    that no answer was given by yet. What was told of before these entries stands among earlier ones, or nowhere."""
    first_at = next((entry.created_at for entry in entries if entry.created_at), None)
    answers = [(entry.created_at, entry) for entry in entries if entry.role == Role.ASSISTANT and entry.created_at]
    told = [(each.told_at, each) for each in summaries if each.told_at]
    new: list[Summary] = []
    for told_at, summary in sorted(told, key=lambda each: each[0]):
        if first_at is not None and told_at >= first_at:
            following = next((entry for at, entry in answers if at >= told_at), None)
            (following.summaries if following else new).append(summary)
    return new


def _turn(messages: list[Message], run: Run) -> list[Entry]:
    """A turn that came to nothing says so at its end, and can be tried again."""
    results = {message.tool_call_id: message for message in messages if message.role == Role.TOOL}
    entries = [_entry(message, run, results) for message in messages if message.role != Role.TOOL]
    if entries and run.status == RunStatus.QUEUED and run.waiting_position is not None:
        entries[-1].note = f"Waiting for a free slot, position {run.waiting_position}"
    if run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        if not entries or entries[-1].role == Role.USER:
            entries.append(Entry(run=run.pk))
        last = entries[-1]
        last.is_retryable, last.is_failure = True, run.status == RunStatus.FAILED
        last.note = f"Failed: {run.error_message} ({run.error_code})" if last.is_failure else "Stopped before its end."
    return entries


def _entry(message: Message, run: Run, results: dict[str, Message]) -> Entry:
    return Entry(
        id=message.pk,
        run=run.pk,
        role=message.role,
        content=message.content,
        thought=message.thought,
        is_pinned=message.is_pinned,
        created_at=message.created_at,
        calls=[_call(call, results.get(call["id"])) for call in message.tool_calls],
    )


def _call(call: dict[str, Any], result: Message | None) -> Call:
    shown = Call(id=call["id"], name=call["name"], args=json.dumps(call["arguments"], indent=2, ensure_ascii=False))
    if result is not None:
        shown.result, shown.is_error = result.content, result.is_error
        shown.state = "failed" if result.is_error else f"{result.duration_ms or 0} ms"
    return shown

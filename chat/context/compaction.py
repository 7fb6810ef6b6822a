"""Which turns are summarised, and when: in the background, before the prompt needs it.

A session's oldest turns are summarised in ranges as soon as the conversation fills 70% of its room; a day's ranges once
more when the day is over, and the days for the whole session. Each step can be repeated: what is there is not made
again.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from django.conf import settings
from django.db.models import QuerySet

from chat.context.budget import budget_of
from chat.context.calibration import ratio_of
from chat.context.combined import SUMMARIZING, shares_of
from chat.context.excerpts import excerpt_text
from chat.context.extractive import Line
from chat.context.summarizing import is_available, summarize
from sessions_app.agent_config import AgentConfig
from sessions_app.memory import Entry, messages_between
from sessions_app.models import AgentSession, AgentTypeVersion, Role, Summary, SummaryLevel
from sessions_app.models.run import ACTIVE_STATUSES
from sessions_app.prompt import PromptMessage, newest_messages
from sessions_app.services.summaries import save_summary
from sessions_app.token_counting import count_tokens

logger = logging.getLogger(__name__)

KEPT = 0.4  # of the room: the newest messages, which are not summarised yet
RANGES_IN_ROOM = 8  # how large a range of turns is
RATIO = 6  # a summary is so much shorter than what it stands for
MIN_TOKENS, MAX_TOKENS = 60, 400  # of one summary
RANGES_OF_A_DAY = 6  # one day's summary stands for so many ranges at most
NODES_OF_SESSION = 3  # new ones until the session's summary is made anew
STEPS = 10  # in one task: others want the worker too


@dataclass(frozen=True)
class _Plan:
    """What one session's agent wants."""

    session_id: uuid.UUID
    room: int
    model: str

    @property
    def range_tokens(self) -> int:
        return max(200, self.room // RANGES_IN_ROOM)


def summarize_session(session_id: uuid.UUID) -> bool:
    """Make the summaries that are due; whether there is more to do."""
    plan = _plan_of(session_id)
    if plan is None:
        return False
    steps = (_summarize_range, _make_again, _summarize_day, _summarize_session)
    return all(any(step(plan) for step in steps) for _ in range(STEPS))


def _plan_of(session_id: uuid.UUID) -> _Plan | None:
    """None if the session is gone, or if its agent's strategies use no summaries."""
    session = AgentSession.objects.select_related("agent_type").filter(pk=session_id, deleted_at=None).first()
    if session is None:
        return None
    version = AgentTypeVersion.objects.get(agent_type=session.agent_type, version=session.agent_type.version)
    agent = AgentConfig.from_json(version.config)
    if not set(SUMMARIZING) & set(shares_of(agent)):
        return None
    budget = budget_of(agent, ratio=ratio_of(agent.model or settings.AGENT_MODEL))
    return _Plan(session_id, max(budget.room, 1), agent.summary_model or settings.SUMMARY_MODEL)


# --- ranges of turns -------------------------------------------------------------------------------------------------


def _summarize_range(plan: _Plan) -> bool:
    messages = _next_range(plan)
    return bool(messages) and _save_turns(plan, messages, None)


def _next_range(plan: _Plan) -> list[PromptMessage]:
    """The oldest turns that have no summary, as many as one stands for; none while they are among the newest."""
    last = _newest(plan, SummaryLevel.TURNS)
    first_turn = last.last_turn + 1 if last else 1
    limit = _first_kept_turn(plan)
    page = messages_between(plan.session_id, first_turn, limit - 1, max_tokens=plan.range_tokens)
    if sum(message.token_count for message in page) < plan.range_tokens:
        return []
    return page


def _first_kept_turn(plan: _Plan) -> int:
    """Turns from here on are shown as they are, or are not over yet."""
    session = AgentSession.objects.get(pk=plan.session_id)
    active = session.runs.filter(status__in=ACTIVE_STATUSES).order_by("turn").values_list("turn", flat=True).first()
    last = (active or session.next_turn) - 1
    newest = newest_messages(plan.session_id, turn=last, max_tokens=int(plan.room * KEPT))
    return newest.messages[0].turn if newest.messages else last


def _save_turns(plan: _Plan, messages: Sequence[PromptMessage], replaces: Summary | None) -> bool:
    lines = [Line(message.role, _said(message)) for message in messages]
    tokens = sum(message.token_count for message in messages)
    made = summarize(lines, max_tokens=_size(tokens), model=plan.model, session_id=plan.session_id)
    if made.is_fallback and replaces:
        return False  # it would be no better, and be told again
    saved = save_summary(
        session_id=plan.session_id,
        level=SummaryLevel.TURNS,
        turns=(messages[0].turn, messages[-1].turn),
        dates=(messages[0].created_at, messages[-1].created_at),
        text=made.text,
        message_count=len(messages),
        tokens=(tokens, count_tokens(made.text)),
        made_by=made.made_by,
        is_fallback=made.is_fallback,
        usage=made.usage,
        replaces=replaces,
    )
    return saved is not None


def _said(message: PromptMessage) -> str:
    if message.role == Role.TOOL:
        return message.content[:500]
    return excerpt_text(Entry(0, 0.0, (message,))).removeprefix(f"{message.role}: ")


def _size(tokens: int) -> int:
    return min(MAX_TOKENS, max(MIN_TOKENS, tokens // RATIO))


def _make_again(plan: _Plan) -> bool:
    """A summary that was made while the model failed, now that it may be asked again; the finest first."""
    if not is_available(plan.model):
        return False
    fallbacks = [_standing(plan, level).filter(is_fallback=True).first() for level in SummaryLevel]
    fallback = next(filter(None, fallbacks), None)
    if fallback is None:
        return False
    first, last = fallback.first_turn, fallback.last_turn
    if fallback.level == SummaryLevel.TURNS:
        messages = messages_between(plan.session_id, first, last, max_tokens=None)
        return bool(messages) and _save_turns(plan, messages, fallback)
    finer = SummaryLevel(fallback.level - 1)
    parts = list(_standing(plan, finer).filter(first_turn__gte=first, last_turn__lte=last))
    return bool(parts) and _save_coarser(plan, SummaryLevel(fallback.level), parts, fallback)


# --- days, and the session -------------------------------------------------------------------------------------------


def _summarize_day(plan: _Plan) -> bool:
    """The ranges of a day that is over, or as many as one summary stands for. Days of a single range are told
    together, so that nothing is missing between two summaries."""
    last = _newest(plan, SummaryLevel.DAY)
    ranges = list(_standing(plan, SummaryLevel.TURNS).filter(first_turn__gt=last.last_turn if last else 0))
    days = [list(group) for _, group in groupby(ranges, key=lambda each: each.first_at.date())]
    waiting: list[Summary] = []
    for number, day in enumerate(days):
        waiting += day
        is_over = number < len(days) - 1 or len(waiting) > RANGES_OF_A_DAY
        if is_over and len(waiting) > 1:
            return _save_coarser(plan, SummaryLevel.DAY, waiting[:RANGES_OF_A_DAY], None)
    return False


def _summarize_session(plan: _Plan) -> bool:
    """From the session's last summary and the days since, so that it costs the same however long the session is."""
    last = _newest(plan, SummaryLevel.SESSION)
    if last is not None and last.reverted_at is not None:
        return False
    days = list(_standing(plan, SummaryLevel.DAY).filter(first_turn__gt=last.last_turn if last else 0))
    if len(days) < NODES_OF_SESSION:
        return False
    return _save_coarser(plan, SummaryLevel.SESSION, [*([last] if last else []), *days], last)


def _save_coarser(plan: _Plan, level: SummaryLevel, parts: Sequence[Summary], replaces: Summary | None) -> bool:
    lines = [Line("", f"[{part.first_at:%Y-%m-%d}] {part.text}") for part in parts]
    size = _size(sum(part.tokens_after for part in parts) * 3)
    made = summarize(lines, max_tokens=size, model=plan.model, session_id=plan.session_id)
    if made.is_fallback and replaces and replaces.is_fallback:
        return False
    saved = save_summary(
        session_id=plan.session_id,
        level=level,
        turns=(parts[0].first_turn, parts[-1].last_turn),
        dates=(parts[0].first_at, parts[-1].last_at),
        text=made.text,
        message_count=sum(part.message_count for part in parts),
        tokens=(sum(part.tokens_before for part in parts), count_tokens(made.text)),
        made_by=made.made_by,
        is_fallback=made.is_fallback,
        usage=made.usage,
        replaces=replaces,
    )
    return saved is not None


def _standing(plan: _Plan, level: SummaryLevel) -> QuerySet[Summary]:
    found = Summary.objects.filter(session_id=plan.session_id, level=level, replaced_at=None, reverted_at=None)
    return found.order_by("first_turn")


def _newest(plan: _Plan, level: SummaryLevel) -> Summary | None:
    """That of the latest turns, also if it was reverted: what it stood for is not summarised again."""
    found = Summary.objects.filter(session_id=plan.session_id, level=level, replaced_at=None)
    return found.order_by("-last_turn").first()

"""Summaries that stand for turns: saved, replaced, reverted. The messages are never touched."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from sessions_app.models import AgentSession, Summary, SummaryLevel, UsagePurpose, UsageRecord
from sessions_app.services.recording import Usage


@transaction.atomic
def save_summary(
    *,
    session_id: uuid.UUID,
    level: SummaryLevel,
    turns: tuple[int, int],
    dates: tuple[datetime, datetime],
    text: str,
    message_count: int,
    tokens: tuple[int, int],
    made_by: str,
    is_fallback: bool = False,
    usage: Usage | None = None,
    replaces: Summary | None = None,
) -> Summary | None:
    """`turns`, `dates` and `tokens` are (first, last), (first, last) and (before, after). What the model used is
    charged to the session. None if somebody else has saved it meanwhile, or reverted what it is to replace."""
    if usage is not None:
        _charge(session_id, usage)
    if replaces is not None:
        replaced = Summary.objects.filter(pk=replaces.pk, replaced_at=None, reverted_at=None)
        if not replaced.update(replaced_at=timezone.now()):
            return None
    try:
        with transaction.atomic():
            return Summary.objects.create(
                session_id=session_id,
                level=level,
                first_turn=turns[0],
                last_turn=turns[1],
                first_at=dates[0],
                last_at=dates[1],
                text=text,
                message_count=message_count,
                tokens_before=tokens[0],
                tokens_after=tokens[1],
                made_by=made_by,
                is_fallback=is_fallback,
            )
    except IntegrityError:
        return None


def _charge(session_id: uuid.UUID, usage: Usage) -> None:
    session = AgentSession.objects.only("owner_id", "agent_type_id").get(pk=session_id)
    UsageRecord.objects.create(
        owner_id=session.owner_id,
        session_id=session_id,
        agent_type_id=session.agent_type_id,
        model=usage.model,
        purpose=UsagePurpose.SUMMARY,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        is_estimated=usage.is_estimated,
        cost=Decimal(usage.cost) / 1_000_000,
        reservation_id=usage.reservation_id,
    )
    AgentSession.objects.filter(pk=session_id).update(
        input_tokens=F("input_tokens") + usage.input_tokens, output_tokens=F("output_tokens") + usage.output_tokens
    )


@transaction.atomic
def revert_summary(*, summary: Summary) -> list[Summary]:
    """Give the messages back: neither this summary nor a coarser one that tells of its turns stands any more, and none
    is made again. Returns those that were reverted."""
    standing = Summary.objects.filter(session_id=summary.session_id, replaced_at=None, reverted_at=None)
    coarser = standing.filter(
        level__gt=summary.level, first_turn__lte=summary.last_turn, last_turn__gte=summary.first_turn
    )
    reverted = [*standing.filter(pk=summary.pk), *coarser]
    now = timezone.now()
    Summary.objects.filter(pk__in=[each.pk for each in reverted]).update(reverted_at=now)
    for each in reverted:
        each.reverted_at = now
    return reverted


def restore_summary(*, summary: Summary) -> None:
    """Let a reverted summary stand again."""
    Summary.objects.filter(pk=summary.pk).update(reverted_at=None)


def mark_told(*, summary_ids: Sequence[int]) -> None:
    """The session's clients know of these."""
    Summary.objects.filter(pk__in=summary_ids, told_at=None).update(told_at=timezone.now())


def summaries_of(session: Any) -> list[Summary]:
    """All that were not replaced by newer ones, coarsest last."""
    return list(Summary.objects.filter(session=session, replaced_at=None).order_by("level", "first_turn"))

"""Reads of accounts: what stands in them now, and whose they are."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db.models import Case, DateTimeField, F, FloatField, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Cast, NullIf
from django.utils import timezone
from django.utils.text import Truncator

from monitoring.models import Account, Measure, Period, Quota
from monitoring.models.quota import MICRO
from sessions_app.models import AgentSession, AgentType, Run

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAME_CHARACTERS = 40
_FOUND = 100  # subjects that a search names, of each kind


def period_start(period: str, now: datetime | None = None) -> datetime:
    """When the period that holds now has begun, as accounts have it."""
    now = (now or timezone.now()).astimezone(UTC)
    starts = {"hour": now.replace(minute=0, second=0, microsecond=0)}
    starts["day"] = starts["hour"].replace(hour=0)
    starts["month"] = starts["day"].replace(day=1)
    return starts.get(period, _EPOCH)


def _started(period: str) -> Case:
    """The same in SQL, for each row by its own quota's period."""
    whens = [When(**{period: each}, then=Value(period_start(each))) for each in (Period.HOUR, Period.DAY, Period.MONTH)]
    return Case(*whens, default=Value(_EPOCH), output_field=DateTimeField())


def with_percent() -> QuerySet[Any]:
    """Accounts with `percent`: which part of its limit is used or reserved; None if the limit is 0."""
    number = FloatField()
    per_unit = Case(When(quota__measure=Measure.COST, then=Value(float(MICRO))), default=Value(1.0))
    limit = Cast("quota__limit", number) * per_unit + Cast("extra", number)
    percent = 100.0 * Cast(F("used") + F("reserved"), number) / NullIf(limit, 0.0)
    return Account.objects.select_related("quota").annotate(percent=percent)


def current_accounts(quotas: QuerySet[Quota] | None = None) -> QuerySet[Any]:
    """Those of the periods of now, the fullest first."""
    accounts = with_percent().filter(period_start=_started("quota__period"))
    if quotas is not None:
        accounts = accounts.filter(quota__in=quotas)
    return accounts.order_by(F("percent").desc(nulls_first=True), "-pk")


def with_fullest(quotas: QuerySet[Quota]) -> QuerySet[Quota]:
    """Quotas with `fullest`: the percent of the fullest account of now."""
    accounts = with_percent().filter(quota=OuterRef("pk"), period_start=_started("quota__period"), is_counted=True)
    fullest = accounts.order_by(F("percent").desc(nulls_last=True)).values("percent")[:1]
    return quotas.annotate(fullest=Subquery(fullest))


@dataclass(frozen=True)
class Subject:
    """Whose an account is: a name for people, and what it is named after (None: the site, or it is gone)."""

    name: str
    row: Any = None


_KINDS: dict[str, Any] = {
    "user": get_user_model(),
    "group": Group,
    "agent_type": AgentType,
    "session": AgentSession,
    "run": Run,
}


def name_subjects(subjects: Iterable[str]) -> dict[str, Subject]:
    """By subject; a query for each kind."""
    ids: dict[str, set[str]] = {}
    wanted = {*subjects}
    for subject in wanted:
        kind, _, key = subject.partition(":")
        ids.setdefault(kind, set()).add(key)
    rows = {
        f"{kind}:{row.pk}": row
        for kind, keys in ids.items()
        if kind in _KINDS
        for row in _KINDS[kind].objects.filter(pk__in=keys)
    }
    return {subject: _named(subject, rows.get(subject)) for subject in wanted}


def _named(subject: str, row: Any) -> Subject:
    if subject == "site":
        return Subject("the whole site")
    if row is None:
        return Subject(subject)
    kind = subject.partition(":")[0].replace("_", " ")
    name = Truncator(str(row)).chars(_NAME_CHARACTERS)
    return Subject(name if name.lower().startswith(kind) else f"{kind} {name}", row)


def find_subjects(text: str) -> Q:
    """What a search for a person's, a group's, an agent type's or a session's name finds, or for a subject itself."""
    found = Q(subject__icontains=text)
    names: dict[str, Q] = {
        "user": Q(username__icontains=text),
        "group": Q(name__icontains=text),
        "agent_type": Q(name__icontains=text),
        "session": Q(title__icontains=text),
    }
    for kind, condition in names.items():
        keys: Iterable[int | uuid.UUID] = _KINDS[kind].objects.filter(condition).values_list("pk", flat=True)[:_FOUND]
        found |= Q(subject__in=[f"{kind}:{key}" for key in keys])
    return found

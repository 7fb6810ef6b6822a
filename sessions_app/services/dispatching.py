"""Which queued runs are to be handed to a worker, and which have been: these have a `dispatched_at`."""

import uuid
from collections.abc import Collection
from datetime import timedelta

import orjson
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from sessions_app.models import Run, RunStatus
from sessions_app.models.run import ACTIVE_STATUSES
from sessions_app.queries import Placement

# At the end of each turn, so in SQL (docs/decisions/0003-sql-on-the-hot-path.md).
_TAKE_NEXT = """
UPDATE sessions_app_run r SET dispatched_at = clock_timestamp()
FROM sessions_app_agentsession s JOIN sessions_app_agenttype a ON a.id = s.agent_type_id
WHERE r.id = (
    SELECT first.id FROM sessions_app_run first
    WHERE first.session_id = %s AND first.status IN ('queued', 'running', 'awaiting_approval')
    ORDER BY first.turn LIMIT 1
) AND r.status = 'queued' AND r.dispatched_at IS NULL AND s.id = r.session_id
RETURNING r.id, s.owner_id, a.id, a.required_capabilities,
    ARRAY(SELECT g.group_id FROM auth_user_groups g WHERE g.user_id = s.owner_id)
"""


def take_next(session_id: uuid.UUID) -> tuple[uuid.UUID, Placement] | None:
    """The run that is first in its session, if it is queued and was not dispatched yet; now it counts as dispatched."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_NEXT, [session_id])
        row = cursor.fetchone()
    if row is None:
        return None
    run_id, owner_id, agent_type_id, required, group_ids = row
    return run_id, Placement(owner_id, agent_type_id, tuple(orjson.loads(required)), tuple(group_ids))


def mark_undispatched(run_ids: Collection[uuid.UUID]) -> None:
    """The broker did not take them: the sweeper dispatches them."""
    for run_id in run_ids:  # one by one: who claims several at once locks them in another order
        Run.objects.filter(pk=run_id, status=RunStatus.QUEUED).update(dispatched_at=None)


@transaction.atomic
def take_undispatched(
    *, older_than_seconds: float | None = None, limit: int = 1_000, but: Collection[uuid.UUID] = ()
) -> list[uuid.UUID]:
    """Queued runs, first in their session, that no broker took or whose dispatch is older than that, `but` for these.

    They count as dispatched now. Sweepers that call it at once take different runs.
    """
    now = timezone.now()
    earlier = Run.objects.filter(
        session_id=OuterRef("session_id"), status__in=ACTIVE_STATUSES, turn__lt=OuterRef("turn")
    )
    overdue = Q(dispatched_at=None) | Q(dispatched_at__lt=now - timedelta(seconds=settings.REDISPATCH_SECONDS))
    if older_than_seconds is not None:  # of the shared queue, into which the caller has looked
        age = timedelta(seconds=older_than_seconds)
        overdue |= Q(dispatched_at__lt=now - age, session__agent_type__required_capabilities=[])
    lost = Run.objects.filter(overdue, ~Exists(earlier), status=RunStatus.QUEUED).exclude(pk__in=but)
    lost = lost.order_by("created_at")
    ids = list(lost.select_for_update(skip_locked=True).values_list("pk", flat=True)[:limit])
    Run.objects.filter(pk__in=ids).update(dispatched_at=now)
    return ids

"""What was used in a time, summed up by hours, agent types, models and so on: one query for rows and totals."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection

MAX_ROWS = 1_000

# What usage is summed up by -> SQL.
_KEYS = {
    "hour": "date_trunc('hour', u.created_at, 'UTC')",
    "day": "date_trunc('day', u.created_at, 'UTC')",
    "month": "date_trunc('month', u.created_at, 'UTC')",
    "user": "owner.username",
    "agent_type": "agent_type.name",
    "model": "u.model",
    "session": "u.session_id",
    "purpose": "u.purpose",
}
KEYS = tuple(_KEYS)
TIMES = ("hour", "day", "month")
_SUMS = {
    "calls": "count(*)",
    "input_tokens": "COALESCE(sum(u.input_tokens), 0)",
    "output_tokens": "COALESCE(sum(u.output_tokens), 0)",
    "cached_tokens": "COALESCE(sum(u.cached_tokens), 0)",
    "reasoning_tokens": "COALESCE(sum(u.reasoning_tokens), 0)",
    "tool_calls": "COALESCE(sum(u.tool_calls), 0)",
    "cost": "COALESCE(sum(u.cost), 0)",
    "estimated_calls": "count(*) FILTER (WHERE u.is_estimated)",
}
SUMS = tuple(_SUMS)


@dataclass(frozen=True)
class UsageQuestion:
    """From `since` on, before `until`; of one owner, or of all if that is None. `by` are names of KEYS."""

    since: datetime
    until: datetime
    by: Sequence[str]
    owner_id: int | None


@dataclass(frozen=True)
class UsageAnswer:
    """Rows with the keys and the sums, the newest first; `totals` are of all, also of rows that were left out."""

    rows: list[dict[str, Any]]
    totals: dict[str, Any]
    is_truncated: bool


def sum_up(question: UsageQuestion) -> UsageAnswer:
    keys = [_KEYS[name] for name in question.by]
    order = [f"{_KEYS[name]} {'DESC' if name in TIMES else 'ASC'} NULLS LAST" for name in question.by]
    mine = "u.owner_id = %s AND" if question.owner_id is not None else ""
    sql = f"""
        SELECT GROUPING({keys[0]}), {", ".join(keys)}, {", ".join(_SUMS.values())}
        FROM sessions_app_usagerecord u
        LEFT JOIN sessions_app_agenttype agent_type ON agent_type.id = u.agent_type_id
        LEFT JOIN auth_user owner ON owner.id = u.owner_id
        WHERE {mine} u.created_at >= %s AND u.created_at < %s
        GROUP BY GROUPING SETS (({", ".join(keys)}), ())
        ORDER BY 1 DESC, {", ".join(order)} LIMIT {MAX_ROWS + 2}
    """  # noqa: S608 (only names of this file)
    owner = [] if question.owner_id is None else [question.owner_id]
    with connection.cursor() as cursor:
        cursor.execute(sql, [*owner, question.since, question.until])
        (_, *total), *rows = cursor.fetchall()
    names = (*question.by, *SUMS)
    found = [dict(zip(names, row[1:], strict=True)) for row in rows]
    totals = dict(zip(SUMS, total[len(keys) :], strict=True))
    return UsageAnswer(found[:MAX_ROWS], totals, len(found) > MAX_ROWS)

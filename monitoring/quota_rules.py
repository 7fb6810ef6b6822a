"""What a quota may say: each rule yields the mistakes of one field, in sentences."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

TARGETS = ("group", "user", "agent_type", "session")
MAX_LIMIT = Decimal(10) ** 12 - 1
_SCOPES = {
    "concurrent_runs": ("site", "group", "user", "agent_type"),
    "tool_calls": ("session",),
    "requests": ("user",),
}
_PERIODS = {
    "tokens": ("hour", "day", "month", "total"),
    "cost": ("hour", "day", "month", "total"),
    "concurrent_runs": ("",),
    "tool_calls": ("minute",),
    "requests": ("minute",),
}


def mistakes_in(quota: Any) -> dict[str, list[str]]:
    """Field name -> what is wrong with it."""
    checks = {"scope": _scope, "period": _period, "limit": _limit, "action": _action, "owner_limit": _owner_limit}
    checks |= {target: _target(target) for target in TARGETS}
    found = {name: list(check(quota)) for name, check in checks.items()}
    return {name: mistakes for name, mistakes in found.items() if mistakes}


def _scope(quota: Any) -> Iterator[str]:
    allowed = _SCOPES.get(quota.measure, (quota.scope,))
    if quota.scope not in allowed:
        yield f"{_words(quota.measure).capitalize()} can be limited for: {', '.join(map(_words, allowed))}."


def _period(quota: Any) -> Iterator[str]:
    allowed = _PERIODS.get(quota.measure, (quota.period,))
    if quota.scope == "run" and "total" in allowed:
        allowed = ("total",)
    if quota.period not in allowed:
        periods = ", ".join(allowed) or "no period, leave it empty"
        yield f"{_words(quota.measure).capitalize()} are counted by: {periods}."


def _limit(quota: Any) -> Iterator[str]:
    if quota.limit is None:
        return
    if not _is_amount(quota.limit):
        yield f"A limit is a number from 0 to {MAX_LIMIT}."
    elif quota.measure != "cost" and quota.limit != int(quota.limit):
        yield f"A limit of {_words(quota.measure)} is a whole number."


def _action(quota: Any) -> Iterator[str]:
    if quota.measure not in ("tokens", "cost") and quota.action == "pause":
        yield "Only a budget of tokens or cost can pause a run."


def _owner_limit(quota: Any) -> Iterator[str]:
    if quota.owner_limit is None:
        return
    if quota.measure not in ("tokens", "cost"):
        yield "Only a budget of tokens or cost can be raised by its owner."
    elif not _is_amount(quota.owner_limit) or (_is_amount(quota.limit) and quota.owner_limit < quota.limit):
        yield f"It is not below the limit itself, and at most {MAX_LIMIT}."


def _target(name: str) -> Any:
    def check(quota: Any) -> Iterator[str]:
        if getattr(quota, f"{name}_id") is not None and quota.scope != name:
            yield f"Only a limit of one {_words(name)} names one."

    return check


def _is_amount(value: Any) -> bool:
    """A number that a limit may be; neither NaN nor infinite."""
    return isinstance(value, int | Decimal) and Decimal(value).is_finite() and 0 <= value <= MAX_LIMIT


def _words(name: str) -> str:
    return name.replace("_", " ")

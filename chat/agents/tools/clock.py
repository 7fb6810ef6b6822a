"""The current time in a time zone."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from chat.agents.tools.base import Tool, ToolContext, ToolError


def find_zone(name: str) -> str | None:
    """The IANA name for `Asia/Tokyo`, `tokyo` or `New York`."""
    wanted = name.strip().replace(" ", "_").casefold()
    zones = sorted(available_timezones())
    exact = [zone for zone in zones if zone.casefold() == wanted]
    cities = [zone for zone in zones if "/" in zone and zone.rsplit("/", 1)[1].casefold() == wanted]
    return next(iter(exact + cities), None)


def _clock(context: ToolContext, timezone: str = "UTC") -> dict[str, Any]:
    zone = find_zone(timezone)
    if zone is None:
        raise ToolError(f"There is no time zone {timezone!r}; use an IANA name such as Europe/Berlin.")
    now = datetime.now(ZoneInfo(zone))
    return {
        "timezone": zone,
        "time": now.strftime("%H:%M:%S"),
        "date": now.strftime("%Y-%m-%d"),
        "weekday": now.strftime("%A"),
        "utc_offset": now.strftime("%z"),
    }


clock = Tool(
    name="clock",
    description="The current date and time in a time zone.",
    parameters={
        "type": "object",
        "properties": {"timezone": {"type": "string", "description": "An IANA name; UTC if left out."}},
    },
    function=_clock,
    is_idempotent=True,
)

"""The current time in a time zone."""

from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field

from chat.agents.tools.base import ToolError
from chat.agents.tools.decorator import tool


def find_zone(name: str) -> str | None:
    """The IANA name for `Asia/Tokyo`, `tokyo` or `New York`."""
    wanted = name.strip().replace(" ", "_").casefold()
    zones = sorted(available_timezones())
    exact = [zone for zone in zones if zone.casefold() == wanted]
    cities = [zone for zone in zones if "/" in zone and zone.rsplit("/", 1)[1].casefold() == wanted]
    return next(iter(exact + cities), None)


@tool(idempotent=True)
def clock(timezone: Annotated[str, Field(description="An IANA name; UTC if left out.")] = "UTC") -> dict[str, Any]:
    """The current date and time in a time zone."""
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

"""The current date and time."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aios_core import InvalidRequest, tool


@tool(read_only=True, trusted=True)
def clock(zone: str = "UTC") -> str:
    """Return the current date and time.

    Args:
        zone: a time zone, such as "Europe/Oslo".
    """
    try:
        place = UTC if zone == "UTC" else ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise InvalidRequest(
            f"zone: got {zone!r}; allowed: a time zone such as 'Europe/Oslo'"
        ) from exc
    return datetime.now(place).strftime("%Y-%m-%d %H:%M:%S %Z")

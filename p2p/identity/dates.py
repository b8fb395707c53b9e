"""Dates for people, in one form on every machine."""

from datetime import UTC, datetime

LAST_S = 253402300799  # the last second of the year 9999


def shown_date(when_s: float) -> str:
    """Return seconds since 1970 as, say, ``"2026-11-21 20:05 UTC"``."""
    if not 0 <= when_s <= LAST_S:
        return f"{when_s:.0f} s after 1970"
    return datetime.fromtimestamp(when_s, UTC).strftime("%Y-%m-%d %H:%M UTC")

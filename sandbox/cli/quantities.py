"""Moments and sizes on a command line and in listings."""

from __future__ import annotations

import time

from sandbox.policy.units import parse_duration, quote

_NS = 1_000_000_000


def parse_time(text: str, now_ns: int | None = None) -> int:
    """A moment in ns since the epoch, from seconds since then, a time ago such as 10m, or a date
    and time as in RFC 3339 (local time where it names no zone). Raises ValueError."""
    now_ns = time.time_ns() if now_ns is None else now_ns
    seconds, _, fraction = text.partition(".")
    if seconds and len(seconds) < 12 and text.isascii() and f"{seconds}{fraction or 0}".isdigit():
        return int(seconds) * _NS + int(fraction[:9].ljust(9, "0"))
    try:
        return now_ns - round(parse_duration(text) * _NS)
    except ValueError:
        pass
    from datetime import datetime

    try:
        head, point, rest = text.partition(".")
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        if point and not digits:
            raise ValueError
        whole = datetime.fromisoformat(head + rest[len(digits) :])  # it keeps six digits itself
        return int(whole.timestamp()) * _NS + int(digits[:9].ljust(9, "0"))
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{quote(text)} must be a time such as 10m (ago), 2026-01-31T12:00:00Z, or seconds "
            "since 1970"
        ) from None


def format_time(at_ns: int) -> str:
    """RFC 3339 with nanoseconds, in UTC: 2026-01-31T12:00:00.123456789Z."""
    seconds, rest = divmod(at_ns, _NS)
    shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{shown}.{rest:09d}Z"


def format_bytes(count: int | None) -> str:
    """A size for people, rounded; "-" for what is unknown."""
    if count is None:
        return "-"
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"

"""Durations, sizes and limits as people write them: "90s", "1h30m", "512M", "1024:4096".

Pure; every function takes a number or a text and raises ValueError with one line.
"""

from __future__ import annotations

import os

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BINARY = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_MAX = 1 << 63
_MAX_RATE = 10**12
_MAX_SECONDS = 10 * 365 * 86400.0
_SHOWN = 80


def quote(value: object) -> str:
    """The value as an error shows it: texts in double quotes, long ones cut, TOML's words."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= _SHOWN else f'"{value[:_SHOWN]}…"'
    if isinstance(value, int | float):
        # str() refuses integers of thousands of digits.
        return "a huge number" if abs(value) > 1 << 64 else str(value)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _take_number(text: str, start: int) -> tuple[float | None, int]:
    """Read digits with at most one point from `start`; return (number, where it ended)."""
    end = start
    while end < len(text) and text[end] in "0123456789.":
        end += 1
    digits = text[start:end]
    if digits.count(".") > 1 or not digits.strip("."):
        return None, end
    return float(digits), end


def parse_duration(value: object) -> float:
    """Seconds from 10, 1.5, "10", "500ms" or "1h30m"."""
    wrong = f"must be a duration in seconds, or such as 90s, 5m, 1h30m, found {quote(value)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value <= _MAX_SECONDS:
            raise ValueError(wrong)
        return float(value)
    if not isinstance(value, str) or not value:
        raise ValueError(wrong)
    total, at = 0.0, 0
    while at < len(value):
        whole = at == 0
        number, at = _take_number(value, at)
        whole, begin = whole and at == len(value), at
        while at < len(value) and value[at].isalpha():
            at += 1
        unit = value[begin:at] or ("s" if whole else "")
        if number is None or unit not in _SECONDS:
            raise ValueError(wrong)
        total += number * _SECONDS[unit]
    if total > _MAX_SECONDS:
        raise ValueError(f"must be at most ten years, found {quote(value)}")
    return total


def parse_size(value: object, *, percent: bool = False) -> int:
    """Bytes from 4096, "512M", "64KiB" or "1.5g" (powers of 1024).

    With `percent` also "50%": that share of the machine's memory.
    """
    wrong = f"must be a size in bytes, or such as 64K, 512M, 2G, found {quote(value)}"
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < _MAX:
            raise ValueError(wrong)
        return value
    if not isinstance(value, str):
        raise ValueError(wrong)
    if percent and value.endswith("%") and value[:-1].isdigit() and len(value) <= 4:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total * min(int(value[:-1]), 100) // 100
    number, at = _take_number(value, 0)
    unit = value[at:].lower()
    if unit.endswith("ib") and len(unit) == 3:
        unit = unit[0]
    elif unit.endswith("b") and len(unit) in {1, 2}:
        unit = unit[:-1]
    # A float cannot tell the largest sizes apart: it only keeps absurd ones away.
    if number is None or unit not in _BINARY or number > 2 * _MAX:
        raise ValueError(wrong)
    whole = "." not in value[:at]
    size = (int(value[:at]) if whole else number) * _BINARY[unit]
    if size >= _MAX:
        raise ValueError(wrong)
    return int(size)


def parse_rate(value: object) -> int:
    """Bits a second from 1000000, "10M", "10Mbit" or "1.5gbit" (powers of 1000)."""
    wrong = f"must be bits a second, or such as 500K, 10M, 1G, found {quote(value)}"
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < _MAX_RATE:
            raise ValueError(wrong)
        return value
    if not isinstance(value, str):
        raise ValueError(wrong)
    number, at = _take_number(value, 0)
    unit = value[at:].lower().removesuffix("/s").removesuffix("ps").removesuffix("bit")
    if number is None or unit not in _DECIMAL or number * _DECIMAL[unit] >= _MAX_RATE:
        raise ValueError(wrong)
    return int(number * _DECIMAL[unit])


def parse_percent(value: object) -> float:
    """0 to 100 from 2.5, "2.5" or "2.5%"."""
    wrong = f"must be 0 to 100 percent, found {quote(value)}"
    if isinstance(value, str):
        number, at = _take_number(value, 0)
        found = number if value[at:] in ("", "%") else None
    else:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        found = float(value) if good else None  # type: ignore[arg-type]
    if found is None or not 0 <= found <= 100:
        raise ValueError(wrong)
    return found


def _one_limit(part: object) -> int | None:
    return None if part in ("unlimited", "infinity", -1, "-1") else parse_size(part)


def parse_limit(value: object) -> tuple[int | None, int | None]:
    """(soft, hard) from a number, "soft:hard", "unlimited" or a pair; None is unlimited."""
    if isinstance(value, tuple | list):
        parts = list(value)
    elif isinstance(value, str):
        parts = list(value.split(":"))
    else:
        parts = [value]
    try:
        limits = [None if part is None else _one_limit(part) for part in parts]
    except ValueError:
        limits = []
    if not 1 <= len(limits) <= 2:
        raise ValueError(f'must be a number, "soft:hard" or "unlimited", found {quote(value)}')
    soft, hard = limits[0], limits[-1]
    if hard is not None and (soft is None or soft > hard):
        raise ValueError(f"must not have a soft limit above the hard one, found {quote(value)}")
    return soft, hard


def format_size(value: int) -> str:
    """Bytes in the largest unit that divides them: 268435456 is "256M"."""
    for unit in "TGMK":
        step = _BINARY[unit.lower()]
        if value and value % step == 0:
            return f"{value // step}{unit}"
    return str(value)


def format_rate(value: int) -> str:
    """Bits a second in the largest unit that divides them: 10000000 is "10M"."""
    for unit in "GMK":
        step = _DECIMAL[unit.lower()]
        if value and value % step == 0:
            return f"{value // step}{unit}"
    return str(value)


def format_duration(value: float) -> str:
    """Seconds in the largest unit that divides them: 300 is "5m"."""
    for unit in "hm":
        if value and value % _SECONDS[unit] == 0:
            return f"{int(value // _SECONDS[unit])}{unit}"
    return f"{value:g}s"


def format_limit(soft: int | None, hard: int | None) -> str:
    """A limit as a policy file writes it: "1024:4096", or one word when both are equal."""
    low, high = ("unlimited" if limit is None else str(limit) for limit in (soft, hard))
    return low if low == high else f"{low}:{high}"

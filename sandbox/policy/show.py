"""A policy as a policy file: every value with where it came from, and loadable again.

The values are the merged ones, so the text extends nothing. `tests` load it and compare.
"""

from __future__ import annotations

from sandbox.policy import model
from sandbox.policy.units import format_duration, format_limit, format_size, parse_duration
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    # The items of a list, each with its origin, or one value.
    Shown = list[tuple[str, str]] | str

_SIZES = (
    *("filesystem.size", "filesystem.shm", "process.output_limit"),
    *("resources.memory", "resources.memory_swap", "resources.memory_reservation"),
)
_UNLIMITED = ("resources.memory", "resources.memory_swap", "resources.cpus", "resources.pids")
_BYTE_LIMITS = ("as", "data", "fsize", "memlock", "rss", "stack")
_TIMES = ("process.timeout", "process.grace", "network.delay")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_LIST_WIDTH = 60


def describe(policy: model.Policy) -> list[tuple[str, str, str]]:
    """Every value of a policy: (key, value as TOML, where it came from)."""
    return [
        (key, value if isinstance(value, str) else _on_one_line(value), origin)
        for key, value, origin in _values(policy)
    ]


def toml_rows(policy: model.Policy) -> list[tuple[str, str]]:
    """The lines of a policy file with all values, each with its origin, "" where it has none.

    Long lists, and the mounts, take one line for each item.
    """
    rows = [('extends = ""', "")]
    for key, value, origin in _values(policy):
        if isinstance(value, str):
            rows.append((f"{key} = {value}", origin))
        elif len(text := _on_one_line(value)) <= _LIST_WIDTH and text[:2] != "[{":
            rows.append((f"{key} = {text}", origin))
        else:
            items = [(f"    {item},", item_origin) for item, item_origin in value]
            rows += [(f"{key} = [", ""), *items, ("]", "")]
    return rows


def format_rlimit(limit: model.Rlimit) -> str:
    """A limit as a policy file writes it, bytes with a unit."""
    if limit.name not in _BYTE_LIMITS:
        return format_limit(limit.soft, limit.hard)
    sides = [
        "unlimited" if side is None else format_size(side) for side in (limit.soft, limit.hard)
    ]
    return ":".join(dict.fromkeys(sides))


def _on_one_line(items: list[tuple[str, str]]) -> str:
    return f"[{', '.join(item for item, _origin in items)}]"


def _values(policy: model.Policy) -> Iterator[tuple[str, Shown, str]]:
    for section, values in policy:
        for name, value in values if isinstance(values, Record) else ():
            key = f"{section}.{name}"
            if key == "process.env":
                yield from _table(policy, key, dict(value))
            elif key != "seccomp.base" or policy.seccomp.profile is None:
                # A profile replaces the base; a file names one of them.
                yield key, _show(policy, key, value), policy.origin(key)
    limits = {limit.name: format_rlimit(limit) for limit in policy.rlimits}
    yield from _table(policy, "rlimits", limits)
    yield from _table(policy, "sysctls", dict(policy.sysctls))
    yield from _table(policy, "on_missing", dict(policy.on_missing))


def _table(
    policy: model.Policy, key: str, table: dict[str, str]
) -> Iterator[tuple[str, Shown, str]]:
    for name, value in table.items():
        bare = name.replace("_", "a").replace("-", "a")
        shown = name if bare.isascii() and bare.isalnum() else _string(name)
        yield f"{key}.{shown}", _string(value), policy.origin(f"{key}.{name}")


def _show(policy: model.Policy, key: str, value: Any) -> Shown:
    if isinstance(value, tuple):
        origins = dict(policy.origins)
        items = []
        for item in value:
            entry = item.target if isinstance(item, model.Mount | model.Tmpfs) else item
            origin = origins.get(f"{key}.{entry}") or policy.origin(key)
            items.append((_inline(item) if isinstance(item, Record) else _string(item), origin))
        return items
    if value is None and key in _UNLIMITED:
        return _string("unlimited")
    if key in _SIZES:
        return _string(format_size(value))
    if key in _TIMES:
        text = format_duration(value)
        return _string(text) if _duration(text) == value else repr(value)
    return _scalar(value)


def _duration(text: str) -> float | None:
    try:
        return parse_duration(text)
    except ValueError:
        return None


def _inline(entry: Record) -> str:
    """A mount as an inline table."""
    shown = []
    for name, value in entry:
        if name == "mode":
            value = f"{value:04o}"  # as text: TOML's reader cannot tell octal from decimal
        elif name == "size":
            value = format_size(value)
        shown.append(f"{name} = {_scalar(value)}")
    return f"{{ {', '.join(shown)} }}"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return _string("" if value is None else str(value))


def _string(text: str) -> str:
    """A basic string of TOML, with everything unprintable as an escape."""
    return f'"{"".join(_ESCAPES.get(char) or _printable(char) for char in text)}"'


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"

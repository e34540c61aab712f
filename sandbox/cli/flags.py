"""From a parsed command line to the last layer of the policy, and to what steers the run.

Every wrong value is kept as a problem, so that one run names them all; `raise_problems` then
ends it. Nothing here knows what a policy may hold: that is checked where all layers meet.
"""

from __future__ import annotations

from sandbox.cli.options import RUN_OPTIONS
from sandbox.errors import UsageError
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.cli.forms import Option
    from sandbox.cli.parse import Parsed, Raw


class Flags(Record):
    """`data`: policy sections; `origins`: policy key to option; `run`: checked values that steer
    the run, by option; `problems`: one line for each wrong value.
    """

    data: dict[str, Any]
    origins: dict[str, str]
    run: dict[str, Any]
    problems: tuple[str, ...]


def read_flags(parsed: Parsed) -> Flags:
    """Read the value of every given option; never raises for a wrong one."""
    flags = Flags({}, {}, {}, ())
    problems: list[str] = []
    table = {option.name: option for option in RUN_OPTIONS}
    for name, raw in parsed.values:
        for text in _texts(raw):
            try:
                problems += _read_one(flags, table[name], text)
            except ValueError as error:
                problems.append(f"{name}: {error}")
    return flags.replace(problems=tuple(problems))


def _texts(raw: Raw) -> tuple[str, ...]:
    if isinstance(raw, tuple):
        return raw
    return (raw,) if isinstance(raw, str) else ("1" if raw else "",)


def _read_one(flags: Flags, option: Option, text: str) -> list[str]:
    """Apply one occurrence to `flags`; return contradictions with other options."""
    if "\0" in text:
        raise ValueError("must not hold a NUL byte")
    if option.read is not None:
        found = (_apply(flags, option.name, *setting) for setting in option.read(text))
        return [problem for problem in found if problem]
    value: Any = option.convert(text) if option.convert else bool(text)
    if option.kind == "repeat":
        flags.run.setdefault(option.name, []).append(value)
    else:
        flags.run[option.name] = value
    return []


def _apply(flags: Flags, option: str, key: str, value: Any) -> str:
    """Put one setting where it belongs; return what is wrong with that, or ""."""
    section, _, name = key.rpartition(".")
    table = flags.data.setdefault(section, {}) if section else flags.data
    if isinstance(value, dict):
        table.setdefault(name, {}).update(value)
        flags.origins.update({f"{key}.{item}": option for item in value})
    elif isinstance(value, list):
        items = table.setdefault(name, [])
        flags.origins.update({f"{key}[{len(items) + n}]": option for n in range(len(value))})
        items.extend(value)
    else:
        other = flags.origins.get(key, option)
        if other != option and str(table[name]) != str(value):
            return f"{option}: contradicts {other}"
        table[name] = value
    flags.origins[key] = option
    return ""


def raise_problems(problems: tuple[str, ...], program: str) -> None:
    """Raise one UsageError that names every problem, if there is one."""
    if problems:
        raise problems_error(problems, program)


def problems_error(problems: tuple[str, ...], program: str) -> UsageError:
    """Return one UsageError that names every problem; there is at least one."""
    hint = f"try '{program} --help'"
    if len(problems) == 1:
        return UsageError(problems[0], hint=hint)
    what = f"the command line has {len(problems)} problems"
    return UsageError(what, problems=problems, hint=hint)

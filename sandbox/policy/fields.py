"""Checks of single values: each takes what TOML or a flag gave and returns the value to use.

A check raises Bad with every finding, each under the path below the value that was checked.
Which key has which check is `schema`'s; what must hold between keys is `validate`'s.
"""

from __future__ import annotations

import os

from sandbox.linux.capabilities import NAMES as CAPABILITIES
from sandbox.policy.units import (
    parse_duration,
    parse_limit,
    parse_percent,
    parse_rate,
    parse_size,
    quote,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Check = Callable[[Any], Any]

HOST_NAME_MAX = 64
NETWORK_MAX = 32
DELAY_MAX = 60.0
PATH_MAX = 4096
NAME_MAX = 255
ID_MAX = (1 << 32) - 2
ITEMS_MAX = 4096
MODE_MAX = 0o1777
TMPFS_MIN = 4096
GROUP_MEMORY_MIN = 6 << 20
CPUS_MAX = 8192
IO_KEYS = ("rbps", "wbps", "riops", "wiops")
# Modes that are meant as octal and were written in decimal.
_DECIMAL_MODES = (700, 711, 750, 755, 770, 775, 777)
INHERIT = "inherit"


class Bad(ValueError):
    """What is wrong with a value: (path below it, text) each; `partial` is what was usable."""

    def __init__(self, *findings: tuple[str, str], partial: Any = None) -> None:
        super().__init__("; ".join(text for _, text in findings))
        self.findings = findings
        self.partial = partial


def bad(text: str) -> Bad:
    """One finding about the value itself."""
    return Bad(("", text))


def suggest(name: str, known: Iterable[str]) -> str:
    """'; did you mean "x"?' when a known name is near, else ""."""
    from difflib import get_close_matches

    near = get_close_matches(name[:NAME_MAX].lower(), list(known), n=1, cutoff=0.65)
    return f'; did you mean "{near[0]}"?' if near else ""


def boolean(value: object) -> bool:
    """true or false, nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise bad(f"must be true or false, found {quote(value)}")
    return value


def integer(low: int, high: int) -> Check:
    """A whole number in a closed range."""

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise bad(f"must be a whole number, found {quote(value)}")
        if not low <= value <= high:
            raise bad(f"must be {low} to {high}, found {quote(value)}")
        return value

    return check


def string(value: object) -> str:
    """Text that the kernel can take: encodable and without NUL."""
    if not isinstance(value, str):
        raise bad(f"must be a string, found {quote(value)}")
    if "\0" in value:
        raise bad(f"must not hold a NUL byte, found {quote(value)}")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise bad(f"must be valid text, found {quote(value)}") from None
    return value


def line(value: object) -> str:
    """A string of one line."""
    text = string(value)
    if "\n" in text or "\r" in text:
        raise bad(f"must not hold a newline, found {quote(text)}")
    return text


def choice(members: tuple[str, ...], noun: str) -> Check:
    """One of a closed set of words."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise bad(f"must be a string, found {quote(value)}")
        if value not in members:
            more = suggest(value, members)
            raise bad(f"{quote(value)} is not a {noun}; use {_either(members)}{more}")
        return value

    return check


def _either(members: tuple[str, ...]) -> str:
    return " or ".join([", ".join(members[:-1]), members[-1]] if len(members) > 1 else members)


def path(value: object) -> str:
    """An absolute path of one line, of a length that the kernel takes."""
    text = line(value)
    if not text.startswith("/"):
        raise bad(f"must be absolute, found {quote(text)}")
    if len(os.fsencode(text)) >= PATH_MAX:
        raise bad(f"must be shorter than {PATH_MAX} bytes, found {quote(text)}")
    if any(len(os.fsencode(part)) > NAME_MAX for part in text.split("/")):
        raise bad(f"has a name longer than {NAME_MAX} bytes, found {quote(text)}")
    return text


def inside(value: object) -> str:
    """An absolute path inside the sandbox, without "..", "." and "//"; one last "/" goes."""
    text = path(value)
    text = text.removesuffix("/") or "/"
    parts = text.split("/")[1:]
    if text != "/" and any(part in {"", ".", ".."} for part in parts):
        raise bad(f'must be without "..", "." and "//", found {quote(text)}')
    return text


def optional(check: Check) -> Check:
    """Like `check`; the empty string means "not set" (None)."""
    return lambda value: None if value == "" else check(value)


def _units(parse: Check) -> Check:
    def check(value: object) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise bad(str(error)) from None

    return check


duration = _units(parse_duration)
size = _units(parse_size)
bit_rate = _units(parse_rate)
percent = _units(parse_percent)
memory_size = _units(lambda value: parse_size(value, percent=True))
_limit = _units(parse_limit)


def tmpfs_size(value: object) -> int:
    """Bytes of one tmpfs: never without a bound, which 0 would mean to the kernel."""
    found: int = memory_size(value)
    if found < TMPFS_MIN:
        raise bad(f"must be at least {TMPFS_MIN} bytes, found {quote(value)}")
    return found


def unlimited_or(check: Check) -> Check:
    """Like `check`; "unlimited" and -1 mean no limit (None)."""
    return lambda value: None if value in ("unlimited", -1, "-1") else check(value)


def _group_memory(value: object) -> int:
    found: int = memory_size(value)
    if found < GROUP_MEMORY_MIN:
        least = f"{GROUP_MEMORY_MIN >> 20}M, which starting a sandbox takes"
        raise bad(f'must be at least {least}, or "unlimited", found {quote(value)}')
    return found


group_memory = unlimited_or(_group_memory)


def _cpus(value: object) -> float:
    wrong = f'must be a number of processors from 0.01 on, or "unlimited", found {quote(value)}'
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        found = float(value)
    except ValueError:
        raise bad(wrong) from None
    if not 0.01 <= found <= CPUS_MAX:
        raise bad(wrong)
    return found


cpus = unlimited_or(_cpus)


def cpuset(value: object) -> str:
    """Numbers and ranges of processors, as the kernel lists them: "0-3,6"; "" for all."""
    text = line(value)
    for part in text.split(",") if text else ():
        low, dash, high = part.partition("-")
        sides = (low, high) if dash else (low,)
        if not all(s.isascii() and s.isdigit() and int(s[:9]) < CPUS_MAX for s in sides):
            raise bad(f'must be processors such as "0-3,6", found {quote(text)}')
        if dash and int(low) > int(high):
            raise bad(f"has a range that ends before it begins: {quote(part)}")
    return text


def io_max(value: object) -> str:
    """DEVICE:KEY=NUMBER,… with the keys rbps, wbps, riops and wiops; numbers in plain digits."""
    text = line(value)
    device, _, words = text.rpartition(":")
    major, _, minor = device.partition(":")
    if not device.startswith("/") and not (major.isdecimal() and minor.isdecimal()):
        raise bad(f'must be DEVICE:rbps=10M,wiops=100 with a path or "8:0", found {quote(text)}')
    found: dict[str, int] = {}
    for word in words.split(","):
        name, _, number = word.partition("=")
        if name not in IO_KEYS or name in found:
            raise bad(f"{quote(word)} in {quote(text)} must be one of {', '.join(IO_KEYS)}, once")
        found[name] = size(number)
        if not found[name]:
            raise bad(f"{quote(word)} in {quote(text)} would stop all of it")
    return f"{device}:{','.join(f'{name}={number}' for name, number in found.items())}"


def rule(value: object) -> str:
    """A rule of what may be reached, in its canonical spelling."""
    from sandbox.policy.egress import parse_rule

    text: str = _parsed(parse_rule, value).text
    return text


def name_server(value: object) -> str:
    """The address of a name server."""
    from sandbox.policy.egress import parse_upstream

    _parsed(parse_upstream, value)
    return line(value)


def publish(value: object) -> str:
    """[IP:]HOSTPORT:PORT[/udp]."""
    from sandbox.policy.egress import parse_publish

    _parsed(parse_publish, value)
    return line(value)


def _parsed(parse: Callable[[str], Any], value: object) -> Any:
    try:
        return parse(string(value))
    except ValueError as error:
        if isinstance(error, Bad):
            raise
        raise bad(str(error)) from None


def limit(value: object) -> Any:
    """(soft, hard) of a resource limit, or "inherit" for the caller's own."""
    return INHERIT if value == INHERIT else _limit(value)


def mode(value: object) -> int:
    """Permission bits: a TOML octal number (0o1777) or a string of octal digits."""
    if isinstance(value, str):
        if not value or len(value) > 5 or value.strip("01234567"):
            raise bad(f'must be octal digits such as "1777", found {quote(value)}')
        value = int(value, 8)
    elif value in _DECIMAL_MODES:
        raise bad(f"{value} is decimal; write 0o{value}")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MODE_MAX:
        raise bad(f"must be 0o0 to 0o1777, found {quote(value)}")
    return value


def account(value: object) -> int | str:
    """A user or group: a number, or a name of the rootfs's own files."""
    if isinstance(value, int) and not isinstance(value, bool):
        found: int = integer(0, ID_MAX)(value)
        return found
    if not isinstance(value, str):
        raise bad(f"must be a number or a name, found {quote(value)}")
    text = line(value)
    if text.isascii() and text.isdigit():
        return account(int(text[:20]))
    if ":" in text:
        raise bad(f'must be one name, found {quote(text)}; "user" and "group" are two keys')
    if not text.strip() or "/" in text or len(text) > NAME_MAX or text[0] in "-+":
        raise bad(f"must be a number or a name, found {quote(text)}")
    return text


def hostname(value: object) -> str:
    """A host name as in RFC 1123, of at most HOST_NAME_MAX bytes (utsname)."""
    text = line(value)
    if not text or len(text) > HOST_NAME_MAX:
        raise bad(f"must have 1 to {HOST_NAME_MAX} characters, found {quote(text)}")
    for label in text.split("."):
        plain = label.replace("-", "a")
        if not (plain.isascii() and plain.isalnum()) or label[0] == "-" or label[-1] == "-":
            raise bad(
                'must be letters, digits and "-" in parts split by ".", '
                f'no part led or ended by "-", found {quote(text)}'
            )
        if len(label) > 63:
            raise bad(f"has a part longer than 63 characters, found {quote(text)}")
    return text


def network_name(value: object) -> str:
    """The name of a network of the host's; "" for the default one."""
    text = line(value)
    plain = text.replace("-", "a").replace("_", "a").replace(".", "a")
    good = plain.isascii() and plain.isalnum() and text[0].isalnum() and len(text) <= NETWORK_MAX
    if text and not good:
        raise bad(
            f'must be letters, digits and ".", "-", "_" behind the first, at most {NETWORK_MAX}, '
            f"found {quote(text)}"
        )
    return text


def short_delay(value: object) -> float:
    """Seconds, at most one minute: packets that wait longer are lost in every protocol."""
    found: float = duration(value)
    if found > DELAY_MAX:
        raise bad(f"must be at most {DELAY_MAX:g} s, found {quote(value)}")
    return found


def capability(value: object) -> str:
    """A capability without "CAP_", in capitals, or ALL."""
    if not isinstance(value, str):
        raise bad(f"must be a string, found {quote(value)}")
    name = value.upper().removeprefix("CAP_")
    if name != "ALL" and name not in CAPABILITIES:
        near = suggest(name.lower(), [known.lower() for known in CAPABILITIES]).upper()
        more = near.replace("DID YOU MEAN", "did you mean")
        raise bad(f"{quote(value)} is not a capability{more}")
    return name


def capability_list(value: object) -> tuple[str, ...]:
    """Capabilities in the kernel's order, each once, ALL written out."""
    try:
        names = each(capability)(value)
    except Bad as error:
        raise Bad(*error.findings) from None
    return tuple(name for name in CAPABILITIES if name in names or "ALL" in names)


def env_name(value: object) -> str:
    """The name of an environment variable."""
    text = line(value)
    if not text or "=" in text:
        raise bad(f'must be a name without "=", found {quote(text)}')
    return text


def passed_name(value: object) -> str:
    """The name of a variable that may be taken over from the caller."""
    name = env_name(value)
    if name.startswith("LD_") or name.endswith("_SOCK") or name == "XDG_RUNTIME_DIR":
        raise bad(
            f"{quote(name)} is never taken over: it names the host's libraries or sockets; "
            "give it a value in process.env"
        )
    return name


def env_value(value: object) -> str | bool:
    """Text, or false for "remove the variable"."""
    if value is False:
        return False
    if not isinstance(value, str):
        raise bad(f"must be a string, or false to remove it, found {quote(value)}")
    return string(value)


def each(check: Check, most: int = ITEMS_MAX) -> Check:
    """A list of at most `most` items that all pass.

    `partial` keeps the places of items that do not, as None.
    """

    def check_all(value: object) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise bad(f"must be a list, found {quote(value)}")
        if len(value) > most:
            raise bad(f"has {len(value)} items, the most is {most}")
        found: list[tuple[str, str]] = []
        items = []
        for index, item in enumerate(value):
            items.append(_collect(check, item, f"[{index}]", found))
        if found:
            raise Bad(*found, partial=items)
        return items

    return check_all


def _collect(check: Check, value: object, below: str, found: list[tuple[str, str]]) -> Any:
    try:
        return check(value)
    except Bad as error:
        found += [(f"{below}{rest}", text) for rest, text in error.findings]
        return error.partial


def _shown(name: object) -> str:
    return quote(str(name))[1:-1]


def table(check_name: Check, check: Check) -> Check:
    """A table of free names; names and values all pass."""

    def check_all(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise bad(f"must be a table, found {quote(value)}")
        if len(value) > ITEMS_MAX:
            raise bad(f"has {len(value)} entries, the most is {ITEMS_MAX}")
        found: list[tuple[str, str]] = []
        entries = {}
        for name, item in value.items():
            shown = _shown(name)
            key = _collect(check_name, name, f".{shown}", found)
            entries[key or name] = _collect(check, item, f".{shown}", found)
        if found:
            raise Bad(*found, partial={k: v for k, v in entries.items() if v is not None})
        return entries

    return check_all


def fields(checks: Mapping[str, Check], required: tuple[str, ...] = ()) -> Check:
    """A table of known keys; unknown and missing ones are findings."""

    def check_all(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise bad(f"must be a table, found {quote(value)}")
        found: list[tuple[str, str]] = []
        entries = {}
        for name, item in value.items():
            if name not in checks:
                found.append((f".{_shown(name)}", f"is not a key{suggest(str(name), checks)}"))
                continue
            before = len(found)
            result = _collect(checks[name], item, f".{name}", found)
            if len(found) == before or result is not None:
                entries[name] = result
        found += [(f".{name}", "is missing") for name in required if name not in value]
        if found:
            raise Bad(*found, partial=entries)
        return entries

    return check_all

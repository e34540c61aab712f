"""Subordinate ids: which ranges the caller owns, and the id maps that follow from them.

Owns the reading of /etc/subuid and /etc/subgid (and getsubids(1) where NSS holds them) and the
arithmetic of maps. Does not install a map: the launcher and sbx-idmap do.
An extent is (inside, outside, count), as in user_namespaces(7).
"""

from __future__ import annotations

import os

from sandbox.errors import HostError
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Range = tuple[int, int]
    Extent = tuple[int, int, int]
    Extents = tuple[Extent, ...]

MAX_EXTENTS = 340
MAX_MAP_TEXT = 4095
ID_LIMIT = 2**32 - 1
DEFAULT_IDS = 65536
# Ids that root hands out when no range was granted to it: above every range that useradd or
# systemd give away (systemd.io/UIDS-GIDS), below 2^31.
ROOT_RANGE = ((0x70000000, DEFAULT_IDS),)
GETSUBIDS = "/usr/bin/getsubids"
_DEADLINE_S = 10.0


class SubIds(Record):
    """`ranges`: (start, count) of one user, in file order, never overlapping.

    `source`: the file, or "getsubids". `problems`: "file:line: text" of lines that were skipped.
    """

    ranges: tuple[Range, ...]
    source: str
    problems: tuple[str, ...] = ()


# ---- reading ----


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1


def _entry(line: str) -> tuple[str, int, int] | None:
    """The owner, start and count of one line; None when it is malformed."""
    parts = line.split(":")
    if len(parts) != 3 or not parts[0]:
        return None
    start, count = _number(parts[1]), _number(parts[2])
    if start < 0 or count < 0 or start + count > ID_LIMIT:
        return None
    return parts[0], start, count


def _check_apart(found: list[tuple[int, int, str]], own: int) -> None:
    """Refuse ranges of one user that share an id, or that hold the user's own one."""
    for index, (start, count, where) in enumerate(found):
        for other, other_count, other_where in found[:index]:
            if start < other + other_count and other < start + count:
                raise HostError(
                    f"subordinate ids overlap in {where}",
                    cause=f"{start}:{count} shares ids with {other}:{other_count} of {other_where}",
                    hint=f"ask an administrator to correct {where.partition(':')[0]}",
                )
        if start <= own < start + count:
            raise HostError(
                f"subordinate ids overlap in {where}",
                cause=f"{start}:{count} contains {own}, the caller's own id",
                hint=f"ask an administrator to correct {where.partition(':')[0]}",
            )


def parse_subids(text: str, file: str, name: str, uid: int, own: int) -> SubIds:
    """The ranges that `text` (of `file`, for messages) gives to user `name` or number `uid`.

    `own` is the caller's own id of that kind, which no range may hold. Malformed lines are
    skipped and named in `problems`; equal lines count once. Raises HostError on an overlap.
    """
    owners = (name, str(uid))
    found: list[tuple[int, int, str]] = []
    problems = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        entry = _entry(line)
        if entry is None:
            problems.append(f"{file}:{number}: expected NAME:START:COUNT, found {line[:80]!r}")
        elif entry[0] in owners and entry[2] and entry[1:] not in [item[:2] for item in found]:
            found.append((entry[1], entry[2], f"{file}:{number}"))
    _check_apart(found, own)
    return SubIds(tuple(item[:2] for item in found), file, tuple(problems))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise HostError(f"cannot read {path}", cause=(error.strerror or "").lower()) from error


def nss_has_subids(text: str) -> bool:
    """Whether nsswitch.conf's `text` sends subordinate ids to something else than the files."""
    for raw in text.split("\n"):
        key, colon, value = raw.partition("#")[0].partition(":")
        if colon and key.strip() == "subid":
            return value.split() not in ([], ["files"])
    return False


def parse_getsubids(text: str, own: int) -> SubIds:
    """The ranges in the output of getsubids(1): lines of "INDEX: NAME START COUNT"."""
    found: list[tuple[int, int, str]] = []
    for line in text.splitlines():
        words = line.split()
        entry = _entry(":".join(words[-3:])) if len(words) == 4 else None
        if entry and entry[2]:
            found.append((entry[1], entry[2], "getsubids"))
    _check_apart(found, own)
    return SubIds(tuple(item[:2] for item in found), "getsubids")


def _ask_getsubids(kind: str, name: str) -> str:
    import subprocess

    argv = [GETSUBIDS, *(["-g"] if kind == "gid" else []), "--", name]
    try:
        done = subprocess.run(
            argv, capture_output=True, env={}, timeout=_DEADLINE_S, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def read_subids(kind: str, name: str, uid: int, own: int, *, etc: str = "/etc") -> SubIds:
    """The subordinate ids of a user; `kind` is "uid" or "gid", `own` the caller's id of it.

    Both files name their owners by user name or by user id, subgid too. getsubids(1) is asked
    when the file has none and nsswitch.conf names another source. Raises HostError on overlaps
    and on files that exist and cannot be read.
    """
    file = f"{etc}/sub{kind}"
    result = parse_subids(_read(file), file, name, uid, own)
    if result.ranges or not os.path.exists(GETSUBIDS):
        return result
    if not nss_has_subids(_read(f"{etc}/nsswitch.conf")):
        return result
    answer = parse_getsubids(_ask_getsubids(kind, name), own)
    return answer.replace(problems=result.problems) if answer.ranges else result


# ---- maps ----


def _text_length(extents: Iterable[Extent]) -> int:
    return sum(len(f"{inside} {outside} {count}\n") for inside, outside, count in extents)


def _bounded(extents: list[Extent]) -> Extents:
    """Cut off what the kernel would not take: 340 extents, one page of text."""
    del extents[MAX_EXTENTS:]
    while _text_length(extents) > MAX_MAP_TEXT:
        extents.pop()
    return tuple(extents)


def _spread(first: int, skip: int, ranges: Iterable[Range], want: int) -> Iterator[Extent]:
    """Give the numbers `first`, `first`+1 … (`skip` left out) to `ranges`, at most `want` ids."""
    inside = first
    for start, length in ranges:
        left = min(length, want)
        want -= left
        outside = start
        while left:
            inside += inside == skip
            count = min(left, skip - inside) if inside < skip else left
            yield inside, outside, count
            inside += count
            outside += count
            left -= count


def range_map(uid: int, ranges: Iterable[Range], want: int = DEFAULT_IDS) -> Extents:
    """Inside 0 is the caller, 1 … are the subordinate ids: `want` ids in all, or what there is."""
    return _bounded([(0, uid, 1), *_spread(1, -1, ranges, want - 1)])


def single_map(uid: int, n: int) -> Extents:
    """Inside `n` is the caller, and nobody else exists."""
    return ((n, uid, 1),)


def inner_map(kind: str, n: int, outer: Iterable[Extent]) -> Extents:
    """The map of a namespace inside one that was mapped with `range_map`: `outer`.

    "Outside" numbers of the result are the outer namespace's own. The kernel wants each extent
    to lie within one extent of the parent's map, so all of `outer`'s borders are kept. The
    caller is 0 in the outer namespace.
    """
    if kind == "single":
        return ((n, 0, 1),)
    if kind == "range":
        return tuple((inside, inside, count) for inside, _, count in outer)
    others = [(inside, count) for inside, _, count in outer if inside]
    total = sum(count for _, count in others)
    # The caller's extent comes first so that cutting off never loses it; the order is free.
    return _bounded([(n, 0, 1), *_spread(0, n, others, total)])


def without_inside(extents: Iterable[Extent], number: int) -> Extents:
    """The same outside ids, with nobody at inside `number`: that id moves past the last one.

    A file whose owner has no number inside is shown with the kernel's overflow id. With that
    number taken out of the map, it can only mean "no number".
    """
    result: list[Extent] = []
    moved = -1
    top = 0
    for inside, outside, count in extents:
        top = max(top, inside + count, number + 1)
        if not inside <= number < inside + count:
            result.append((inside, outside, count))
            continue
        before = number - inside
        moved = outside + before
        if before:
            result.append((inside, outside, before))
        if count > before + 1:
            result.append((number + 1, moved + 1, count - before - 1))
    if moved >= 0:
        result.append((top, moved, 1))
    return tuple(result)

"""The payload's user: names and numbers from the rootfs's own passwd and group files.

The files are hostile: read inside the root, bounded, and never trusted for more than a number,
a home directory and a shell.
"""

from __future__ import annotations

from sandbox.errors import PolicyError
from sandbox.host.inroot import read_file
from sandbox.record import Record

MAX_ID = 2**32 - 2


class Account(Record):
    """The payload's user as the rootfs names it; `gid` None means the file gave no group."""

    uid: int
    gid: int | None = None
    name: str = ""
    home: str = ""
    shell: str = ""


def _lines(root: str, path: str) -> list[list[str]]:
    """The fields of every line; none when there is no such file. Raises OSError."""
    try:
        data = read_file(root, path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [line.split(":") for line in data.decode("utf-8", "replace").split("\n")]


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > MAX_ID:
        return None
    return int(text)


def _printable(text: str, limit: int = 4096) -> str:
    return text if text.isprintable() and len(text) <= limit else ""


def _account(fields: list[str]) -> Account | None:
    if len(fields) < 7:
        return None
    uid, gid = _number(fields[2]), _number(fields[3])
    if uid is None or gid is None:
        return None
    home = _printable(fields[5])
    shell = _printable(fields[6])
    return Account(
        uid, gid, _printable(fields[0], 256), home if home.startswith("/") else "", shell
    )


def find_account(root: str, user: int | str, group: int | str | None) -> Account:
    """The account of `user` (a number, or a name of the rootfs) with `group` as its group.

    A number needs no entry. Raises PolicyError when a name has none.
    """
    wanted = str(user)
    number = _number(wanted)
    # A policy's number and the same digits in quotes mean the same user.
    key = 2 if number is not None else 0
    cause = "the root file system's /etc/passwd has no such line"
    found = None
    try:
        for fields in _lines(root, "/etc/passwd"):
            if len(fields) > key and fields[key] == wanted:
                found = _account(fields)
                break
    except OSError as error:
        cause = _unreadable("/etc/passwd", error)
    if found is None:
        if number is None:
            raise PolicyError(
                f'no user "{wanted}" inside', cause=cause, hint="use a number with --user"
            )
        found = Account(number)
    if group is None:
        return found
    return found.replace(gid=_find_group(root, str(group)))


def _find_group(root: str, group: str) -> int:
    number = _number(group)
    if number is not None:
        return number
    cause = "the root file system's /etc/group has no such line"
    try:
        for fields in _lines(root, "/etc/group"):
            if len(fields) >= 3 and fields[0] == group:
                number = _number(fields[2])
                if number is not None:
                    return number
    except OSError as error:
        cause = _unreadable("/etc/group", error)
    raise PolicyError(
        f'no group "{group}" inside', cause=cause, hint="use a number with --user UID:GID"
    )


def _unreadable(path: str, error: OSError) -> str:
    return f"the root file system's {path} cannot be read: {(error.strerror or '').lower()}"

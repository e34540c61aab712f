"""Directories below a descriptor, opened by paths of any length without following a symlink.

Shared by `copy` and `remove`. Paths are bytes, relative to the descriptor, b"" being itself.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP = 3000  # bytes of a path per call, well below PATH_MAX


class Directory:
    """One directory of a walk as it was found, and what the walk has learnt about it.

    `readable`: whether it could be opened. `attributes`: (name, value) to set on its copy.
    """

    __slots__ = ("attributes", "found", "path", "readable")

    def __init__(self, path: bytes, found: os.stat_result) -> None:
        self.path = path
        self.found = found
        self.readable = True
        self.attributes: list[tuple[str, bytes]] = []

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self.found.st_dev, self.found.st_ino


def _steps(path: bytes) -> Iterator[bytes]:
    while len(path) > _STEP:
        cut = path.rindex(b"/", 0, _STEP)
        yield path[:cut]
        path = path[cut + 1 :]
    yield path


def open_below(root: int, path: bytes, identity: tuple[int, int] | None = None) -> int:
    """Open directory `path` below descriptor `root`.

    `identity` is the (device, inode) that a walk has seen there. The last component is never
    a symlink; that none before it was one is proven by the identity, and OSError (ESTALE) is
    raised where it differs.
    """
    current = root
    for step in _steps(path or b"."):
        try:
            opened = os.open(step, _OPEN, dir_fd=current)
        finally:
            if current != root:
                os.close(current)
        current = opened
    if identity:
        found = os.fstat(current)
        if (found.st_dev, found.st_ino) != identity:
            os.close(current)
            raise OSError(errno.ESTALE, "was replaced meanwhile")
    return current


def _unescape(path: bytes) -> bytes:
    """Undo the kernel's octal escapes of blank, tab, newline and backslash."""
    head, *rest = path.split(b"\\")
    return head + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in rest)


def mount_points(root: int) -> frozenset[bytes]:
    """Paths below descriptor `root` on which something is mounted; empty without /proc.

    b"" is among them when `root` is itself a mount point.
    """
    try:
        base = os.readlink(f"/proc/self/fd/{root}".encode()).rstrip(b"/") + b"/"
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return frozenset()
    paths = (_unescape(words[4]) for line in lines if len(words := line.split(b" ", 5)) > 5)
    return frozenset(p[len(base) :] for p in paths if (p + b"/").startswith(base))

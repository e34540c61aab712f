"""A tree with everything a root file system can hold, and the description of a tree.

Run by itself as root of a user namespace: `trees.py build|describe PATH`. Uses only what
`python3 -I -S` has.
"""

import errno
import hashlib
import json
import os
import stat
import struct
import sys
from typing import Any

OLD = (1_500_000_000_123_456_789, 1_234_567_890_987_654_321)
ODD_NAMES = (
    b"-rf",
    b" leading blank",
    b"two\nlines",
    b"\xff\xfe not utf-8",
    "naïve 字".encode(),
    b"quote'\"$`\\",
    b"x" * 255,
)
DEEP = 60
_DEEP_NAME = b"d" * 100
_ACL = struct.pack("<I" + "HHI" * 5, 2, 1, 7, 0xFFFFFFFF, 2, 4, 5, 4, 5, 0xFFFFFFFF, 16, 5,
                   0xFFFFFFFF, 32, 1, 0xFFFFFFFF)  # fmt: skip
_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def _write(path: bytes, data: bytes, mode: int = 0o644) -> None:
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def _attribute(path: bytes, name: str, value: bytes) -> None:
    """Set it where this kernel and file system have such attributes."""
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
            raise


def _sparse(path: bytes, size: int, pieces: list[tuple[int, bytes]]) -> None:
    with open(path, "wb") as file:
        for at, data in pieces:
            file.seek(at)
            file.write(data)
        file.truncate(size)


def _build_files(top: bytes) -> None:
    _write(top + b"/plain", b"hello\n")
    _write(top + b"/empty", b"")
    _write(top + b"/big", bytes(range(256)) * 12345 + b"tail", 0o755)
    _write(top + b"/setuid", b"#!/bin/sh\n", 0o4755)
    _write(top + b"/setgid", b"#!/bin/sh\n", 0o2755)
    _write(top + b"/closed", b"mode 000", 0)
    _write(top + b"/read-only", b"r", 0o444)
    for name in ODD_NAMES:
        _write(top + b"/" + name, name)
    megabyte = 1 << 20
    _sparse(top + b"/hole", 5 * megabyte, [])
    _sparse(top + b"/data then hole", 5 * megabyte, [(0, b"start")])
    _sparse(top + b"/hole then data", 3 * megabyte + 3, [(3 * megabyte, b"end")])
    _sparse(top + b"/islands", 9 * megabyte, [(megabyte, b"a" * 9000), (4 * megabyte, b"b")])


def _build_links(top: bytes) -> None:
    os.mkdir(top + b"/links")
    os.mkdir(top + b"/links/more")
    _write(top + b"/links/one", b"linked", 0o640)
    os.link(top + b"/links/one", top + b"/links/more/two")
    os.link(top + b"/links/one", top + b"/three")
    for name, target in (
        (b"dangling", b"nowhere"),
        (b"absolute", b"/etc/passwd"),
        (b"to a folder", b"../links"),
        (b"loop", b"loop"),
        (b"odd", b"\xff\n"),
    ):
        os.symlink(target, top + b"/links/" + name)
    os.link(top + b"/links/odd", top + b"/links/odd 2", follow_symlinks=False)
    os.mkfifo(top + b"/links/fifo", 0o620)
    os.link(top + b"/links/fifo", top + b"/links/fifo 2")
    os.mknod(top + b"/links/socket", stat.S_IFSOCK | 0o755)


def _build_folders(top: bytes) -> None:
    os.mkdir(top + b"/many")
    for number in range(150):
        _write(top + b"/many/%d" % number, b"%d" % number * number)
    os.mkdir(top + b"/closed folder")
    _write(top + b"/closed folder/within", b"w")
    os.mkdir(top + b"/closed folder/empty")
    for name, mode in ((b"sticky", 0o1777), (b"setgid folder", 0o2775), (b"unwritable", 0o555)):
        os.mkdir(top + b"/" + name)
        _write(top + b"/" + name + b"/file", name)
        os.chmod(top + b"/" + name, mode)
    at = os.open(top, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir(_DEEP_NAME, dir_fd=at)
        below = os.open(_DEEP_NAME, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=at))
    os.utime("bottom", ns=OLD, dir_fd=at)
    os.utime(at, ns=OLD)
    os.close(at)


def _build_attributes(top: bytes) -> None:
    _attribute(top + b"/plain", "user.note", b"\0\xff value")
    _attribute(top + b"/plain", "user.empty", b"")
    _attribute(top + b"/many", "user.note", b"of a folder")
    _attribute(top + b"/many", "user.overlay.opaque", b"y")
    _attribute(top + b"/empty", "user.overlay.whiteout", b"y")
    _attribute(top + b"/many/7", "system.posix_acl_access", _ACL)
    _attribute(top + b"/sticky", "system.posix_acl_default", _ACL)
    _attribute(top + b"/big", "security.capability", _CAPABILITY)


def _build_owners(top: bytes) -> None:
    for name, uid, gid in (
        (b"plain", 5, 7),
        (b"setuid", 33, 0),
        (b"closed", 1000, 1000),
        (b"links/one", 8, 8),
        (b"links/dangling", 9, 9),
        (b"links/fifo", 9, 10),
        (b"closed folder", 1000, 1000),
        (b"sticky/file", 0, 12),
    ):
        path = top + b"/" + name
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        os.lchown(path, uid, gid)
        if not os.path.islink(path):
            os.chmod(path, mode)


def build(path: str, *, owners: bool = True) -> None:
    """Make the tree at `path`, which must not exist; `owners` needs rights over other ids."""
    os.umask(0o022)
    top = os.fsencode(path)
    os.mkdir(top)
    _build_files(top)
    _build_links(top)
    _build_folders(top)
    _build_attributes(top)
    if owners:
        _build_owners(top)
    for number, name in enumerate((b"plain", b"links/dangling", b"links/fifo", b"big", b"many")):
        times = (OLD[0] + number, OLD[1] + number)
        os.utime(top + b"/" + name, ns=times, follow_symlinks=False)
    os.chmod(top + b"/closed folder", 0)
    os.utime(top, ns=OLD)


def _content(at: int, name: str, found: os.stat_result) -> dict[str, Any]:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=at)
    except PermissionError:
        return {"unreadable": True}
    try:
        digest = hashlib.sha256()
        while data := os.read(file, 1 << 20):
            digest.update(data)
        attributes = {n: os.getxattr(file, n).hex() for n in sorted(os.listxattr(file))}
    finally:
        os.close(file)
    return {
        "size": found.st_size,
        "sha256": digest.hexdigest(),
        "sparse": found.st_blocks * 512 + 4096 < found.st_size,
        "xattrs": attributes,
    }


class _Describer:
    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.names: dict[tuple[int, int], list[str]] = {}

    def folder(self, at: int, path: str) -> None:
        found = os.fstat(at)
        self.entries[path] = {
            **_common(found),
            "xattrs": {n: os.getxattr(at, n).hex() for n in sorted(os.listxattr(at))},
        }
        for name in sorted(os.listdir(at)):
            self.entry(at, name, f"{path}/{name}")

    def entry(self, at: int, name: str, path: str) -> None:
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFDIR:
            try:
                below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=at)
            except PermissionError:
                self.entries[path] = {**_common(found), "unreadable": True}
                return
            self.folder(below, path)
            os.close(below)
            return
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            return
        self.entries[path] = _common(found)
        if kind == stat.S_IFREG:
            self.entries[path] |= _content(at, name, found)
        elif kind == stat.S_IFLNK:
            self.entries[path]["target"] = os.readlink(name, dir_fd=at)
        if found.st_nlink > 1:
            self.names.setdefault((found.st_dev, found.st_ino), []).append(path)


def _common(found: os.stat_result) -> dict[str, Any]:
    return {
        "mode": oct(found.st_mode),
        "owner": [found.st_uid, found.st_gid],
        "mtime_ns": found.st_mtime_ns,
    }


def describe(path: str) -> dict[str, dict[str, Any]]:
    """Every entry below `path` but device nodes, with the groups of hard links in each."""
    sys.setrecursionlimit(10000)
    describer = _Describer()
    at = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    describer.folder(at, "")
    os.close(at)
    for names in describer.names.values():
        for name in names:
            describer.entries[name]["linked"] = names
    return describer.entries


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build(sys.argv[2])
    else:
        json.dump(describe(sys.argv[2]), sys.stdout)

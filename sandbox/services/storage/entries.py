"""One entry of a tree copied into another: files, links, special files, and their attributes.

Owns what a copy keeps of an entry and in which order that is set. Does not walk (`copy` does)
and does not move contents (`filedata` does).
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.services.storage.filedata import DataCopier
from sandbox.services.storage.tree import Directory, open_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Link = tuple[bytes, bytes, int, int]  # folder, name, device, inode

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_LIMIT = 4000
_NAMED = 10
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))
_CLOSED = frozenset((errno.EACCES, errno.EPERM))
COUNTS = (
    "files",
    "directories",
    "symlinks",
    "specials",
    "hard_links",
    "devices_skipped",
    "mounts_skipped",
    "xattrs_dropped",
    "unreadable",
    "vanished",
    "errors",
    "bytes_copied",
    "bytes_cloned",
)


class CopyStats:
    """What was copied. `counts` maps the names of `COUNTS` to numbers.

    `unreadable` files belong to ids without a number in this user namespace and their mode
    keeps them closed: an empty stand-in of mode 000 has their name. `problems` holds the first
    ten (path, text) of the `errors`, `closed` the first ten unreadable paths.
    """

    __slots__ = ("closed", "counts", "problems")

    def __init__(self) -> None:
        self.counts = dict.fromkeys(COUNTS, 0)
        self.problems: list[tuple[bytes, str]] = []
        self.closed: list[bytes] = []

    def note_error(self, path: bytes, text: str) -> None:
        """Count one failed entry; `text` is in the kernel's words."""
        self.counts["errors"] += 1
        if len(self.problems) < _NAMED:
            self.problems.append((path, text))

    def note_unreadable(self, path: bytes) -> None:
        """Count one entry that got a stand-in."""
        self.counts["unreadable"] += 1
        if len(self.closed) < _NAMED:
            self.closed.append(path)

    def add(
        self, counts: dict[str, int], problems: list[tuple[bytes, str]], closed: list[bytes]
    ) -> None:
        """Take over what another process found."""
        for name, count in counts.items():
            self.counts[name] += count
        self.problems = [*self.problems, *problems][:_NAMED]
        self.closed = [*self.closed, *closed][:_NAMED]

    def as_json(self) -> str:
        """One object in one line; bytes of paths that are no UTF-8 become surrogates."""
        numbers = ", ".join(f'"{name}": {count}' for name, count in self.counts.items())
        problems = closed = "[]"
        if self.problems or self.closed:
            import json

            problems = json.dumps([[os.fsdecode(path), text] for path, text in self.problems])
            closed = json.dumps([os.fsdecode(path) for path in self.closed])
        return f'{{{numbers}, "problems": {problems}, "closed": {closed}}}'


def _overflow_id(kind: str) -> int:
    """The id shown for owners without a number here; -1 where every owner has one."""
    try:
        with open(f"/proc/sys/kernel/overflow{kind}", "rb") as file:
            number = int(file.read())
        with open(f"/proc/self/{kind}_map", "rb") as file:
            extents = [tuple(map(int, line.split())) for line in file]
    except (OSError, ValueError):
        return -1
    return -1 if any(start <= number < start + count for start, _, count in extents) else number


def join(folder: bytes, name: bytes) -> bytes:
    """The path of `name` in `folder`, where b"" is the root of the tree."""
    return folder + b"/" + name if folder else name


class EntryCopier:
    """Copies the entries of directories below `source` to below `target` (both descriptors)."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.stats = CopyStats()
        self.linked: list[Link] = []
        self._counts = self.stats.counts
        self._data = DataCopier()
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._no_uid, self._no_gid = _overflow_id("uid"), _overflow_id("gid")

    def judge(self, path: bytes, error: OSError) -> None:
        """Note a failed entry and go on, unless nothing more can be written at all."""
        if error.errno == errno.ENOENT:
            self._counts["vanished"] += 1
            return
        self.stats.note_error(path, error.strerror or str(error))
        if error.errno in _FULL:
            raise error

    def is_foreign(self, found: os.stat_result) -> bool:
        """Whether root of this user namespace has no power over the entry."""
        return found.st_uid == self._no_uid or found.st_gid == self._no_gid

    def note_bytes(self) -> None:
        """Put the sums of copied bytes into the counts; to be called once, at the end."""
        self._counts["bytes_copied"] += self._data.bytes_copied
        self._counts["bytes_cloned"] += self._data.bytes_cloned

    # ---- entries ----

    def copy_batch(
        self, at: int, to: int, folder: bytes, files: Iterable[bytes], others: Iterable[bytes]
    ) -> None:
        """Copy entries of one directory from descriptor `at` to `to`, hard links left for later.

        `files` were regular files when they were listed: those alone are ever opened, since
        opening a device node can have effects.
        """
        for name in files:
            try:
                self._copy_regular(at, to, folder, name, first=True)
            except OSError as error:
                self.judge(join(folder, name), error)
        for name in others:
            try:
                self._copy_other(at, to, folder, name, first=True)
            except OSError as error:
                self.judge(join(folder, name), error)

    def _copy_regular(self, at: int, to: int, folder: bytes, name: bytes, *, first: bool) -> None:
        try:
            # O_NONBLOCK: what was put in the file's place meanwhile must not make us wait.
            source = os.open(name, _READ, dir_fd=at)
        except OSError as error:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            closed = stat.S_ISREG(found.st_mode) and error.errno in _CLOSED
            if not (closed and self.is_foreign(found)):
                raise
            self._stand_in(to, folder, name, found)
            return
        try:
            found = os.fstat(source)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ESTALE, "was replaced meanwhile")
            if first and found.st_nlink > 1:
                self.linked.append((folder, name, found.st_dev, found.st_ino))
            else:
                self._copy_file(source, to, name, found)
        finally:
            os.close(source)

    def _copy_file(self, source: int, to: int, name: bytes, found: os.stat_result) -> None:
        mode = found.st_mode & 0o7777
        size = found.st_size
        target = os.open(name, _CREATE, mode, dir_fd=to)
        try:
            uid, gid = self._owner(found)
            if uid >= 0 or gid >= 0:
                os.fchown(target, uid, gid)
            if size:
                self._data.copy(source, target, size, found.st_blocks)
            attributes = os.listxattr(source)
            if attributes:
                self._set_attributes(target, self.read_attributes(source, attributes))
            if mode & 0o6000:  # chown and write have taken these bits away
                os.fchmod(target, mode)
            os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(target)
        self._counts["files"] += 1

    def _stand_in(self, to: int, folder: bytes, name: bytes, found: os.stat_result) -> None:
        self.stats.note_unreadable(join(folder, name))
        os.close(os.open(name, _CREATE, 0, dir_fd=to))
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=to)

    def _copy_other(self, at: int, to: int, folder: bytes, name: bytes, *, first: bool) -> None:
        """Copy a symlink, fifo or socket; device nodes stay behind."""
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        mode = stat.S_IMODE(found.st_mode)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            self._counts["devices_skipped"] += 1
            return
        if first and found.st_nlink > 1:
            self.linked.append((folder, name, found.st_dev, found.st_ino))
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=at), name, dir_fd=to)
            self._counts["symlinks"] += 1
        elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
            os.mknod(name, kind | mode, dir_fd=to)
            self._counts["specials"] += 1
        else:
            raise OSError(errno.ESTALE, "was replaced meanwhile")
        uid, gid = self._owner(found)
        if uid >= 0 or gid >= 0:
            os.chown(name, uid, gid, dir_fd=to, follow_symlinks=False)
            if kind != stat.S_IFLNK and mode & 0o6000:
                os.chmod(name, mode, dir_fd=to)
        times = (found.st_atime_ns, found.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=to, follow_symlinks=False)

    def _owner(self, found: os.stat_result) -> tuple[int, int]:
        """The ids to give to the copy, -1 for those it has from its creation on."""
        uid, gid = found.st_uid, found.st_gid
        return (
            -1 if uid in (self._uid, self._no_uid) else uid,
            -1 if gid in (self._gid, self._no_gid) else gid,
        )

    # ---- extended attributes ----

    def read_attributes(self, source: int, names: list[str]) -> list[tuple[str, bytes]]:
        """The attributes to copy: all but overlay's own marks, which would hide files."""
        found = []
        for name in names:
            if name.startswith(("user.overlay.", "trusted.overlay.")):
                continue
            try:
                found.append((name, os.getxattr(source, name)))
            except OSError:
                self._counts["xattrs_dropped"] += 1
        return found

    def _set_attributes(self, target: bytes | int, attributes: list[tuple[str, bytes]]) -> None:
        for name, value in attributes:
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                if error.errno in _FULL:
                    raise
                self._counts["xattrs_dropped"] += 1

    # ---- after all batches ----

    def make_links(self) -> None:
        """Copy each linked inode once, then link its other names to the copy.

        Never to the source: a write through such a link would change it.
        """
        copies: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        for folder, name, device, inode in sorted(self.linked):
            try:
                known = copies.get((device, inode))
                if known is None:
                    self._copy_linked(folder, name)
                    copies[device, inode] = folder, name
                else:
                    self._link(*known, folder, name)
            except OSError as error:
                self.judge(join(folder, name), error)

    def _copy_linked(self, folder: bytes, name: bytes) -> None:
        at = open_below(self.source, folder)
        try:
            to = open_below(self.target, folder)
            try:
                if stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                    self._copy_regular(at, to, folder, name, first=False)
                else:
                    self._copy_other(at, to, folder, name, first=False)
            finally:
                os.close(to)
        finally:
            os.close(at)

    def _link(self, from_folder: bytes, from_name: bytes, folder: bytes, name: bytes) -> None:
        at = open_below(self.target, from_folder)
        try:
            to = open_below(self.target, folder)
            try:
                os.link(from_name, name, src_dir_fd=at, dst_dir_fd=to, follow_symlinks=False)
            finally:
                os.close(to)
        finally:
            os.close(at)
        self._counts["hard_links"] += 1

    def finish_directory(self, entry: Directory) -> None:
        """Give a directory its owner, mode, attributes and times; its entries are complete.

        Earlier, a mode could lock us out, and a default ACL would colour every new entry.
        """
        path = entry.path
        opened = -1
        try:
            if len(path) > _PATH_LIMIT or entry.attributes:
                opened = open_below(self.target, path)
                self._finish(entry, opened, None)
            else:
                self._finish(entry, path or b".", self.target)
        except OSError as error:
            self.judge(path, error)
        finally:
            if opened >= 0:
                os.close(opened)

    def _finish(self, entry: Directory, where: bytes | int, base: int | None) -> None:
        found = entry.found
        mode = stat.S_IMODE(found.st_mode) if entry.readable else 0
        uid, gid = self._owner(found)
        if uid >= 0 or gid >= 0:
            os.chown(where, uid, gid, dir_fd=base)
        if mode != 0o700:
            os.chmod(where, mode, dir_fd=base)
        self._set_attributes(where, entry.attributes)
        os.utime(where, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=base)

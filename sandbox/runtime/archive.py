"""Trees as tar streams, out of and into folders that others change meanwhile.

Owns the walk, the checks of names and kinds, and the bounds. Works on descriptors alone, follows no
symbolic link, opens nothing but what it has looked at, and never waits for a file. Only regular
files, folders and symbolic links pass; set-user-id and set-group-id bits do not.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable
    from typing import Any

    Read = Callable[[int], bytes]
    Owner = tuple[int, int]
    OwnerOf = Callable[[tarfile.TarInfo], Owner]

_CHUNK = 1 << 17
_MODES = 0o1777
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_INTO = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
_NOTES_MOST = 20


class Bounds(Record):
    """The most that one copy takes: bytes of content, entries, folders below each other."""

    bytes: int = 8 << 30
    entries: int = 1 << 20
    depth: int = 200


class Tally:
    """What a copy has come to so far, and what had to be left out of it."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._bytes = self._entries = 0
        self.notes: list[str] = []

    def count(self, path: str, size: int, depth: int) -> None:
        """One more entry. Raises OSError EFBIG when it is one too many."""
        self.more(path, size)
        self._entries += 1
        bounds = self._bounds
        if self._entries > bounds.entries:
            raise OSError(errno.EFBIG, f"more than {bounds.entries} entries", path)
        if depth > bounds.depth:
            raise OSError(errno.EFBIG, f"more than {bounds.depth} folders below each other", path)

    def more(self, path: str, size: int) -> None:
        """More bytes of the same entry. Raises OSError EFBIG."""
        self._bytes += size
        if self._bytes > self._bounds.bytes:
            raise OSError(errno.EFBIG, f"more than {self._bounds.bytes} bytes", path)

    def left(self) -> int:
        """How many entries may still come."""
        return self._bounds.entries - self._entries

    def note(self, path: str, why: str) -> None:
        """Something was left out, which is no error."""
        if len(self.notes) < _NOTES_MOST:
            self.notes.append(f"{path}: {why}")


class Guard:
    """What must not be touched in a tree: nothing, in one of the caller's own."""

    def check(self, handle: int) -> None:
        """Raise PermissionError for an object that is neither to be read nor to be entered."""

    def check_replace(self, at: int, name: str) -> None:
        """Raise OSError for a name that must go on meaning what it means."""


def reopen(handle: int, flags: int) -> int:
    """Open what an O_PATH descriptor stands for: that very object, whatever has its name now."""
    return os.open(f"/proc/self/fd/{handle}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


class Pipe:
    """One end of a pipe, as tarfile wants a file. A buffer would be flushed again when it fails."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, most: int) -> bytes:
        """Some bytes, none at the end."""
        return os.read(self._fd, most)

    def write(self, data: bytes) -> int:
        """All of it."""
        left = memoryview(data)
        while left and self._fd >= 0:
            left = left[os.write(self._fd, left) :]
        return len(data)

    def abandon(self) -> None:
        """Write nothing more: tarfile would, whenever its memory is freed."""
        self._fd = -1


class _Exactly:
    """A file read as if it had `size` bytes, however it grows or shrinks meanwhile."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._left = fd, size
        self.short = False

    def read(self, most: int) -> bytes:
        most = min(most, self._left, _CHUNK)
        data = b"" if self.short else os.read(self._fd, most)
        if not data and most:
            self.short = True
            data = bytes(most)
        self._left -= len(data)
        return data


# ---- from a tree to a stream ---------------------------------------------------------------


class _Packer:
    def __init__(self, out: Pipe, tally: Tally, guard: Guard) -> None:
        from tarfile import DIRTYPE, PAX_FORMAT, SYMTYPE, TarFile, TarInfo

        self._types = DIRTYPE, SYMTYPE
        self._entry = TarInfo
        stream: Any = out
        self._tar = TarFile.open(
            fileobj=stream, mode="w|", format=PAX_FORMAT, errors="surrogateescape"
        )
        self._tally = tally
        self._guard = guard

    def close(self) -> None:
        self._tar.close()

    def add(self, handle: int, name: str, depth: int = 0) -> None:
        """What `handle` (O_PATH) stands for, with all below it, as `name`. Raises OSError."""
        try:
            self._guard.check(handle)
        except PermissionError as error:
            if not depth:
                raise
            self._tally.note(name, (error.strerror or "").lower())
            return
        found = os.fstat(handle)
        entry = self._entry(name or ".")
        entry.mode = found.st_mode & _MODES
        entry.uid, entry.gid, entry.mtime = found.st_uid, found.st_gid, found.st_mtime
        kind = stat.S_IFMT(found.st_mode)
        size = found.st_size if kind == stat.S_IFREG else 0
        if kind in _KINDS:
            if not depth:
                raise OSError(errno.EINVAL, f"is {_KINDS[kind]}", name)
            self._tally.note(name, f"is {_KINDS[kind]}, left out")
            return
        self._tally.count(name, size, depth)
        if kind == stat.S_IFDIR:
            entry.type = self._types[0]
            self._tar.addfile(entry)
            self._add_content(handle, name, depth)
        elif kind == stat.S_IFLNK:
            entry.type, entry.linkname = self._types[1], os.readlink("", dir_fd=handle)
            self._tar.addfile(entry)
        else:
            self._add_file(handle, entry, size)

    def _add_file(self, handle: int, entry: tarfile.TarInfo, size: int) -> None:
        fd = reopen(handle, os.O_RDONLY)
        try:
            entry.size = size
            content = _Exactly(fd, size)
            self._tar.addfile(entry, content)  # type: ignore[arg-type]
        finally:
            os.close(fd)
        if content.short:
            self._tally.note(entry.name, "became shorter meanwhile, its end is filled with zeros")

    def _add_content(self, handle: int, name: str, depth: int) -> None:
        fd = reopen(handle, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = []
            with os.scandir(fd) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if len(names) > self._tally.left():
                        break  # counting them ends it
            for child in sorted(names):
                path = f"{name}/{child}" if name else child
                try:
                    inner = os.open(child, _LOOK, dir_fd=fd)
                except FileNotFoundError:
                    self._tally.note(path, "went away meanwhile")
                    continue
                try:
                    self.add(inner, path, depth + 1)
                except OSError as error:
                    error.filename = error.filename or path
                    raise
                finally:
                    os.close(inner)
        finally:
            os.close(fd)


def pack(handle: int, name: str, out: Pipe, tally: Tally, guard: Guard) -> None:
    """Write what `handle` (O_PATH) stands for as a tar stream whose first entry is `name`; "" puts
    a folder's content at the top. Raises OSError, with the path as its filename."""
    try:
        packer = _Packer(out, tally, guard)
        packer.add(handle, name)
        packer.close()
    except BaseException:
        out.abandon()
        raise


# ---- from a stream to a tree ---------------------------------------------------------------


def _replace(at: int, name: str, guard: Guard, make: Callable[[str], None]) -> None:
    """Have `make` create something under another name, and give it `name` when it is whole."""
    guard.check_replace(at, name)
    temporary = f".sbx-{os.urandom(8).hex()}"
    try:
        make(temporary)
        os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        try:
            os.unlink(temporary, dir_fd=at)
        except OSError:
            pass
        raise


def put_file(
    at: int,
    name: str,
    read: Read,
    mode: int,
    *,
    owner: Owner | None,
    guard: Guard,
    mtime: float | None = None,
) -> None:
    """Make or replace file `name` in folder `at`, whole or not at all. Raises OSError."""

    def make(temporary: str) -> None:
        fd = os.open(temporary, _NEW, 0o600, dir_fd=at)
        try:
            out, size = Pipe(fd), 0
            while data := read(_CHUNK):
                size += len(data)
                if data.count(0) == len(data):  # stays a hole
                    os.lseek(fd, size, os.SEEK_SET)
                else:
                    out.write(data)
            os.truncate(fd, size)
            _set_attributes(fd, mode & 0o777, owner, mtime)
        finally:
            os.close(fd)

    _replace(at, name, guard, make)


def _set_attributes(fd: int, mode: int, owner: Owner | None, mtime: float | None) -> None:
    if owner:
        os.chown(fd, *owner)
    os.chmod(fd, mode)
    if mtime is not None:
        os.utime(fd, (mtime, mtime))


class _Folder:
    """A folder on the way to what is being written; one that we made gets its `entry`'s attributes
    when it is left."""

    __slots__ = ("entry", "fd", "made", "name")

    def __init__(self, name: str, fd: int, *, made: bool) -> None:
        self.name = name
        self.fd = fd
        self.made = made
        self.entry: tarfile.TarInfo | None = None


class _Unpacker:
    def __init__(self, top: int, tally: Tally, guard: Guard, owner_of: OwnerOf | None) -> None:
        self._trail = [_Folder("", top, made=False)]
        self._tally = tally
        self._guard = guard
        self._owner_of = owner_of

    def add(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, parts: list[str]) -> None:
        """Make one entry. Raises OSError."""
        self._tally.count(entry.name, entry.size if entry.isreg() else 0, len(parts))
        if entry.isdir():
            self._go_to(parts, entry)
            self._trail[-1].entry = entry
        elif not parts:
            raise OSError(errno.EINVAL, "an entry without a name", entry.name)
        elif entry.isreg() or entry.issym():
            self._go_to(parts[:-1], entry)
            make = self._add_file if entry.isreg() else self._add_link
            make(archive, entry, self._trail[-1].fd, parts[-1])
        else:
            self._tally.note(entry.name, "is no file, folder or symbolic link, left out")

    def close(self) -> None:
        """Leave all folders."""
        while len(self._trail) > 1:
            self._leave()

    def abandon(self) -> None:
        """The same after an error."""
        while len(self._trail) > 1:
            os.close(self._trail.pop().fd)

    def _add_file(
        self, archive: tarfile.TarFile, entry: tarfile.TarInfo, at: int, name: str
    ) -> None:
        content = archive.extractfile(entry)
        put_file(
            at,
            name,
            content.read if content else bytes,
            entry.mode,
            owner=self._owner(entry),
            guard=self._guard,
            mtime=entry.mtime,
        )

    def _add_link(self, _: tarfile.TarFile, entry: tarfile.TarInfo, at: int, name: str) -> None:
        owner = self._owner(entry)

        def make(temporary: str) -> None:
            os.symlink(entry.linkname, temporary, dir_fd=at)
            if owner:
                os.chown(temporary, *owner, dir_fd=at, follow_symlinks=False)

        _replace(at, name, self._guard, make)

    def _owner(self, entry: tarfile.TarInfo) -> Owner | None:
        return self._owner_of(entry) if self._owner_of else None

    def _go_to(self, parts: list[str], entry: tarfile.TarInfo) -> None:
        common = 0
        for folder, name in zip(self._trail[1:], parts, strict=False):
            if folder.name != name:
                break
            common += 1
        while len(self._trail) > common + 1:
            self._leave()
        for name in parts[common:]:
            self._trail.append(self._enter(name, entry))

    def _enter(self, name: str, entry: tarfile.TarInfo) -> _Folder:
        at, made = self._trail[-1].fd, False
        try:
            os.mkdir(name, 0o700, dir_fd=at)
            made = True
        except FileExistsError:
            pass
        fd = os.open(name, _INTO, dir_fd=at)
        try:
            self._guard.check(fd)
            if made:
                _set_attributes(fd, 0o755, self._owner(entry), None)
        except BaseException:
            os.close(fd)
            raise
        return _Folder(name, fd, made=made)

    def _leave(self) -> None:
        folder = self._trail.pop()
        try:
            if folder.made and folder.entry:
                entry = folder.entry
                _set_attributes(folder.fd, entry.mode & _MODES, self._owner(entry), entry.mtime)
        finally:
            os.close(folder.fd)


def _parts(name: str, top: str | None) -> list[str]:
    """The components of an entry's name, the first one renamed. Raises OSError."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise OSError(errno.EINVAL, "a name that leads out of the archive", name)
    return [top, *parts[1:]] if top is not None and parts else parts


def unpack(
    source: Pipe,
    at: int,
    tally: Tally,
    guard: Guard,
    *,
    top: str | None = None,
    owner_of: OwnerOf | None = None,
) -> None:
    """Make the entries of a tar stream in folder `at`; `top` replaces the first component of their
    names. What is there is replaced, a folder is entered. Raises OSError, with the entry's name
    as its filename; EINVAL for what is no archive."""
    from tarfile import TarError, TarFile

    unpacker = _Unpacker(at, tally, guard, owner_of)
    stream: Any = source
    try:
        with TarFile.open(fileobj=stream, mode="r|*", errors="surrogateescape") as archive:
            for entry in archive:
                archive.members = []  # type: ignore[attr-defined]  # or all are kept
                try:
                    unpacker.add(archive, entry, _parts(entry.name, top))
                except OSError as error:
                    error.filename = entry.name
                    raise
            unpacker.close()
    except TarError as error:
        raise OSError(errno.EINVAL, f"what came is no tar archive: {error}") from error
    finally:
        unpacker.abandon()

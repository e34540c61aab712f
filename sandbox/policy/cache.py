"""Parsed policy files on disk: importing the TOML parser costs more than merging a policy.

An entry is believed because only this user can have written it: folder and file belong to the
user, with no rights for others, and no symlink is followed. It is used for one state of one file
only. The digest guards against torn files. Whatever looks wrong is a miss; nothing here is fatal.
"""

from __future__ import annotations

import marshal
import os
import stat
import sys
import time

from sandbox.errors import SbxError
from sandbox.linux.paths import cache_dir, private_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Raise this when `load` keeps something else than what the TOML parser returned.
_MAGIC = b"sbx-toml1"
_DIGEST = 16
_ENTRY_BYTES_MAX = 4 << 20
_ENTRIES_MAX = 256
# Timestamps are as coarse as a jiffy: a file that has just changed may change again unseen.
_SETTLED_NS = 1_000_000_000


def _digest(data: bytes) -> bytes:
    try:
        # hashlib loads OpenSSL, which takes longer than all the rest here.
        import _blake2  # type: ignore[import-not-found,unused-ignore]

        return bytes(_blake2.blake2b(data, digest_size=_DIGEST).digest())
    except ImportError:
        import hashlib

        return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def file_key(path: str, found: os.stat_result) -> bytes:
    """What an entry is for: this file in this state, read by this Python."""
    return repr(
        (
            os.fsencode(path),
            found.st_dev,
            found.st_ino,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            sys.hexversion,
            marshal.version,
        )
    ).encode()


def is_cacheable(found: os.stat_result) -> bool:
    """Whether nobody but root and this user could change the file, and it is at rest."""
    if found.st_mode & 0o022 or found.st_uid not in {0, os.geteuid()}:
        return False
    return time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED_NS


def _open_folder() -> int:
    """A descriptor of the entries' folder; OSError when others have rights on it."""
    fd = os.open(
        f"{cache_dir()}/policy", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    )
    if not _private(os.fstat(fd)):
        os.close(fd)
        raise PermissionError
    return fd


def _private(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and found.st_mode & 0o077 == 0


def _name(path: str) -> str:
    return _digest(os.fsencode(path)).hex()


def load(path: str, key: bytes) -> dict[str, Any] | None:
    """The content kept for a file in the state of `key`, None when there is no sound entry."""
    try:
        folder = _open_folder()
    except OSError:
        return None
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(_name(path), flags, dir_fd=folder)
    except OSError:
        return None
    finally:
        os.close(folder)
    try:
        found = os.fstat(fd)
        sound = _private(found) and stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        return _parse(os.read(fd, _ENTRY_BYTES_MAX), key) if sound else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _parse(data: bytes, key: bytes) -> dict[str, Any] | None:
    start = len(_MAGIC) + _DIGEST
    body = data[start:]
    if not data.startswith(_MAGIC) or data[len(_MAGIC) : start] != _digest(body):
        return None
    try:
        kept, content = marshal.loads(body)  # noqa: S302 - only this user could have written it
    except (ValueError, TypeError, EOFError):
        return None
    return content if kept == key and isinstance(content, dict) else None


def store(path: str, key: bytes, content: dict[str, Any]) -> None:
    """Keep what a file says; silently not, where that is impossible."""
    try:
        body = marshal.dumps((key, content))
    except ValueError:
        return  # dates: no key takes one, and marshal cannot hold them
    data = _MAGIC + _digest(body) + body
    if len(data) > _ENTRY_BYTES_MAX:
        return
    try:
        private_dir(cache_dir())
        private_dir(f"{cache_dir()}/policy")
        folder = _open_folder()
    except (OSError, SbxError):
        return
    try:
        _make_room(folder)
        _write(folder, _name(path), data)
    except OSError:
        return
    finally:
        os.close(folder)


def _make_room(folder: int) -> None:
    names = os.listdir(folder)
    for name in names if len(names) >= _ENTRIES_MAX else ():
        os.unlink(name, dir_fd=folder)


def _write(folder: int, name: str, data: bytes) -> None:
    """Put a file in place by rename: a reader sees all of it or none."""
    part = f".{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(part, flags, 0o600, dir_fd=folder)
    try:
        try:
            if os.write(fd, data) != len(data):
                raise OSError("short write")
        finally:
            os.close(fd)
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        os.unlink(part, dir_fd=folder)
        raise

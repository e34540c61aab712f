"""Small files on disk that keep results between runs.

An entry is believed because only this user can have written it: folder and file belong to the
user, with no rights for others, and no symlink is followed. The digest in it guards against torn
and damaged files, not against an attacker. Whatever looks wrong is a miss: the result is made
again and the entry replaced. No failure here is fatal.
"""

from __future__ import annotations

import os
import stat

from sandbox.errors import SbxError
from sandbox.linux.paths import private_dir

DIGEST_BYTES = 32
ENTRY_BYTES_MAX = 4 << 20
ENTRIES_MAX = 256


def digest(data: bytes) -> bytes:
    """The 32 bytes that stand for `data` in keys and entries."""
    try:
        # hashlib loads OpenSSL, which takes longer than all the rest here.
        import _blake2  # type: ignore[import-not-found,unused-ignore]

        return bytes(_blake2.blake2b(data, digest_size=DIGEST_BYTES).digest())
    except ImportError:
        import hashlib

        return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def load(folder: str, key: bytes) -> bytes | None:
    """What was stored under a key, None when there is no sound entry."""
    name = digest(key).hex()
    try:
        within = _open_folder(folder)
    except OSError:
        return None
    try:
        # O_NONBLOCK: opening a FIFO must not wait for somebody to write into it.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=within)
    except OSError:
        return None
    finally:
        os.close(within)
    try:
        found = os.fstat(fd)
        if not _private(found) or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return None
        data = os.read(fd, min(found.st_size, ENTRY_BYTES_MAX))
    except OSError:
        return None
    finally:
        os.close(fd)
    body = data[DIGEST_BYTES:]
    return body if data[:DIGEST_BYTES] == digest(key + body) else None


def store(folder: str, key: bytes, body: bytes) -> bool:
    """Keep `body` under a key; False when that was not possible."""
    name = digest(key).hex()
    data = digest(key + body) + body
    if len(data) > ENTRY_BYTES_MAX:
        return False
    try:
        private_dir(os.path.dirname(folder))
        private_dir(folder)
        within = _open_folder(folder)
    except (OSError, SbxError):
        return False
    try:
        _make_room(within)
        _write(within, name, data)
    except OSError:
        return False
    finally:
        os.close(within)
    return True


def _open_folder(folder: str) -> int:
    """A descriptor of the entries' folder; OSError when others have rights on it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not _private(os.fstat(fd)):
        os.close(fd)
        raise PermissionError
    return fd


def _private(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and found.st_mode & 0o077 == 0


def _make_room(folder: int) -> None:
    names = os.listdir(folder)
    for name in names if len(names) >= ENTRIES_MAX else ():
        os.unlink(name, dir_fd=folder)


def _write(folder: int, name: str, data: bytes) -> None:
    """Put a file in place by rename: a reader sees all of it or none."""
    part = f".{name}.{os.urandom(8).hex()}"
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

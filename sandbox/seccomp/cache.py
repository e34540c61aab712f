"""Compiled filters on disk, keyed by the content of everything that they were made from.

An entry is trusted because of who could have written it: the folder and the file must belong to
this user with no rights for others, and are looked at through descriptors that follow no symlink.
The digest in it guards against torn and damaged files, not against an attacker. Whatever looks
wrong is a miss: the filter is compiled again and the entry replaced. No failure here is fatal.
"""

from __future__ import annotations

import os
import stat
import sys

MAGIC = b"sbx-bpf1"
_SOURCES = (
    "rules",
    "groups",
    "syscalls_x86_64",
    "profile",
    "oci",
    "oci_values",
    "syscalls_other",
    "compile",
)
_HEADER = len(MAGIC) + 32 + 4 + 4
_ENTRY_BYTES_MAX = 4096 * 8 + (1 << 16) + _HEADER + 32
_ENTRIES_MAX = 256


def _digest(data: bytes) -> bytes:
    # hashlib loads OpenSSL, which takes longer than compiling a filter.
    try:
        module = __import__("_sha2" if sys.version_info >= (3, 12) else "_sha256")
        return bytes(module.sha256(data).digest())
    except ImportError:
        import hashlib

        return hashlib.sha256(data).digest()


def key(wanted: bytes, profile: bytes) -> bytes:
    """The key of a filter: `wanted` and `profile`, and the state of the code that compiles.

    b"" when the code cannot be identified (it is not in plain files): then nothing is cached.
    """
    folder, _, name = __file__.rpartition("/")
    ending = name.rpartition(".")[2]
    try:
        found = [os.stat(f"{folder}/{source}.{ending}") for source in _SOURCES]
    except OSError:
        return b""
    code = repr([(f.st_dev, f.st_ino, f.st_mtime_ns, f.st_size) for f in found])
    return _digest(b"\0".join((code.encode(), str(len(wanted)).encode(), wanted, profile)))


def _open_folder(cache_dir: str) -> int:
    """A descriptor of the entries' folder, or OSError when others could write into it."""
    fd = os.open(f"{cache_dir}/seccomp", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if not _private(os.fstat(fd)):
        os.close(fd)
        raise PermissionError
    return fd


def _private(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and found.st_mode & 0o077 == 0


def load(cache_dir: str, name: bytes) -> tuple[bytes, tuple[str, ...]] | None:
    """The filter and warnings stored under a key, or None when there is no sound entry."""
    try:
        folder = _open_folder(cache_dir)
    except OSError:
        return None
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(name.hex(), flags, dir_fd=folder)
    except OSError:
        return None
    finally:
        os.close(folder)
    try:
        found = os.fstat(fd)
        if not _private(found) or not stat.S_ISREG(found.st_mode):
            return None
        return _parse(os.read(fd, _ENTRY_BYTES_MAX + 1), name)
    except OSError:
        return None
    finally:
        os.close(fd)


def _parse(data: bytes, name: bytes) -> tuple[bytes, tuple[str, ...]] | None:
    body, digest = data[:-32], data[-32:]
    if len(body) < _HEADER or body[:40] != MAGIC + name or _digest(body) != digest:
        return None
    length = int.from_bytes(body[40:44], "little")
    program = body[_HEADER : _HEADER + length]
    text = body[_HEADER + length :]
    if not program or len(program) != length or length % 8:
        return None
    if len(text) != int.from_bytes(body[44:48], "little"):
        return None
    return program, tuple(text.decode("utf-8", "surrogateescape").splitlines())


def store(cache_dir: str, name: bytes, program: bytes, warnings: tuple[str, ...]) -> bool:
    """Keep a filter; False when that was not possible."""
    text = "\n".join(warnings).encode("utf-8", "surrogateescape")
    body = MAGIC + name + len(program).to_bytes(4, "little") + len(text).to_bytes(4, "little")
    body += program + text
    data = body + _digest(body)
    if len(data) > _ENTRY_BYTES_MAX:
        return False
    try:
        # One call each: makedirs gives the mode to the last folder only.
        os.makedirs(cache_dir, mode=0o700, exist_ok=True)
        os.makedirs(f"{cache_dir}/seccomp", mode=0o700, exist_ok=True)
        folder = _open_folder(cache_dir)
    except OSError:
        return False
    try:
        _make_room(folder)
        _write(folder, name.hex(), data)
    except OSError:
        return False
    finally:
        os.close(folder)
    return True


def _make_room(folder: int) -> None:
    names = os.listdir(folder)
    if len(names) >= _ENTRIES_MAX:
        for name in names:
            os.unlink(name, dir_fd=folder)


def _write(folder: int, name: str, data: bytes) -> None:
    """Put a file in place by rename: a reader sees all of it or none."""
    part = f".{name}.{os.getpid()}"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
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

"""Compiled filters on disk, keyed by the content of everything that they were made from.

Owns the key and the shape of an entry; `private_cache` owns the trust.
"""

from __future__ import annotations

import marshal
import os

from sandbox.linux import private_cache

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


def make_key(wanted: bytes, profile: bytes) -> bytes:
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
    return b"\0".join((code.encode(), str(len(wanted)).encode(), wanted, profile))


def load(cache_dir: str, key: bytes) -> tuple[bytes, tuple[str, ...]] | None:
    """The filter and warnings stored under a key, or None when there is no sound entry."""
    body = private_cache.load(f"{cache_dir}/seccomp", key)
    if body is None:
        return None
    try:
        program, warnings = marshal.loads(body)  # noqa: S302 - only this user could have written it
    except (ValueError, TypeError, EOFError):
        return None
    if not isinstance(program, bytes) or not program or len(program) % 8:
        return None
    return (program, warnings) if isinstance(warnings, tuple) else None


def store(cache_dir: str, key: bytes, program: bytes, warnings: tuple[str, ...]) -> None:
    """Keep a filter; silently not, where that is impossible."""
    private_cache.store(f"{cache_dir}/seccomp", key, marshal.dumps((program, warnings), 4))

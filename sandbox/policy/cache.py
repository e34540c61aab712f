"""Parsed policy files on disk: importing the TOML parser costs more than merging a policy.

An entry is for one file in one state of it. Owns its shape; `private_cache` owns the trust.
"""

from __future__ import annotations

import marshal
import os
import sys
import time

from sandbox.linux import private_cache
from sandbox.linux.paths import cache_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Raise this when `load` keeps something else than what the TOML parser returned.
_FORMAT = 2
# Timestamps are as coarse as a jiffy: a file that has just changed may change again unseen.
_SETTLED_NS = 1_000_000_000


def file_state(found: os.stat_result) -> tuple[int, ...]:
    """What an entry is good for: this state of the file, read by this Python."""
    return (
        _FORMAT,
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        sys.hexversion,
        marshal.version,
    )


def is_cacheable(found: os.stat_result) -> bool:
    """Whether nobody but root and this user could change the file, and it is at rest."""
    if found.st_mode & 0o022 or found.st_uid not in {0, os.geteuid()}:
        return False
    return time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED_NS


def _folder() -> str:
    return f"{cache_dir()}/policy"


def load(path: str, state: tuple[int, ...]) -> dict[str, Any] | None:
    """The content kept for a file in this state, None when there is no sound entry."""
    body = private_cache.load(_folder(), os.fsencode(path))
    if body is None:
        return None
    try:
        kept, content = marshal.loads(body)  # noqa: S302 - only this user could have written it
    except (ValueError, TypeError, EOFError):
        return None
    return content if kept == state and isinstance(content, dict) else None


def store(path: str, state: tuple[int, ...], content: dict[str, Any]) -> None:
    """Keep what a file says; silently not, where that is impossible."""
    try:
        body = marshal.dumps((state, content))
    except ValueError:
        return  # dates: no key takes one, and marshal cannot hold them
    private_cache.store(_folder(), os.fsencode(path), body)

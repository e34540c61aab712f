"""Folders that live as long as one run, and the removal of those that outlived theirs.

Owns `$XDG_CACHE_HOME/sbx/runs`: each run keeps a lock on its folder. The kernel drops the lock
with the process, however it ended, so a folder whose lock is free belongs to nobody, and the next
run removes it. It is the folder itself that is locked: a file in it would go before the rest, and
a folder that is being removed would look like one without an owner.
"""

from __future__ import annotations

import fcntl
import os

from sandbox.errors import SbxError
from sandbox.linux.paths import cache_dir, private_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Remove = Callable[[str], None]  # with all content, whoever owns it; raises SbxError

_GATE = ".gate"


def runs_dir() -> str:
    """Where the folders of runs are."""
    return f"{cache_dir()}/runs"


class Workspace:
    """One run's folder: `path` is there and ours until `close`."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self._lock = lock

    def share(self) -> int:
        """Another descriptor that keeps the folder from being removed, the caller's to close."""
        return os.dup(self._lock)

    def leave(self) -> None:
        """Let go without removing anything: others hold it."""
        os.close(self._lock)

    def close(self, remove: Remove) -> None:
        """Remove the folder with all content."""
        try:
            remove(self.path)
        finally:
            os.close(self._lock)


def make_workspace() -> Workspace:
    """Create a fresh, locked folder of mode 0700. Raises SbxError."""
    base = private_dir(runs_dir())
    path = f"{base}/{os.getpid()}-{os.urandom(6).hex()}"
    gate = _open_lock(f"{base}/{_GATE}")
    try:
        # Between mkdir and the lock the folder would look like one without an owner.
        fcntl.flock(gate, fcntl.LOCK_EX)
        os.mkdir(path, 0o700)
        lock = _open_folder(path)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SbxError(f"cannot create {path}", cause=(error.strerror or "").lower()) from error
    finally:
        os.close(gate)
    return Workspace(path, lock)


def reap_leftovers(remove: Remove) -> list[str]:
    """Remove the folders of runs that were killed; return their paths, for a word about it."""
    base = runs_dir()
    try:
        names = [name for name in os.listdir(base) if name != _GATE]
    except OSError:
        return []
    if not names:
        return []
    private_dir(base)
    removed = []
    for path, lock in _claim(base, names):
        try:
            remove(path)
            removed.append(path)
        except SbxError:  # the next run tries again
            continue
        finally:
            os.close(lock)
    return removed


def _claim(base: str, names: list[str]) -> list[tuple[str, int]]:
    """Lock every folder that nobody has locked."""
    claimed = []
    gate = _open_lock(f"{base}/{_GATE}")
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for name in names:
            path = f"{base}/{name}"
            try:
                lock = _open_folder(path)
            except OSError:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                continue
            if not os.path.exists(path):  # removed by its owner meanwhile
                os.close(lock)
                continue
            claimed.append((path, lock))
    finally:
        os.close(gate)
    return claimed


def _open_folder(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _open_lock(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

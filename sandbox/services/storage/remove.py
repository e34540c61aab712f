"""The removal of a tree that may hold files of subordinate ids and closed directories.

Owns the walk. Runs in this process as long as the caller's own rights suffice, and again as
root of a user namespace (through `mapped`) for what they do not reach. Follows no symlink and
touches nothing that is mounted below the tree.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from sandbox.services.storage.tree import Directory, mount_points, open_below

_NAMED = 10
_PATH_LIMIT = 4000
_RIGHTS = frozenset((errno.EACCES, errno.EPERM))

TYPE_CHECKING = False
if TYPE_CHECKING:
    Problem = tuple[bytes, int]  # path, errno


class _Remover:
    """Empties the directory behind descriptor `root`. `problems`: what could not be removed."""

    def __init__(self, root: int) -> None:
        self.problems: list[Problem] = []
        self._root = root
        self._mounts = mount_points(root)
        self._waiting = [Directory(b"", os.fstat(root))]

    def run(self) -> None:
        """Remove all entries, children first; go on after failures."""
        if b"" in self._mounts:
            self.problems.append((b"", errno.EBUSY))
            return
        seen = []
        while self._waiting:
            entry = self._waiting.pop()
            seen.append(entry.path)
            self._attempt(entry.path, self._empty, entry)
        for path in reversed(seen[1:]):
            self._attempt(path, self._drop, path)

    def _attempt(self, path: bytes, act: object, argument: object) -> None:
        try:
            act(argument)  # type: ignore[operator]
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problems.append((path, error.errno or errno.EIO))

    def _empty(self, entry: Directory) -> None:
        at = self._open(entry)
        try:
            prefix = entry.path + b"/" if entry.path else b""
            with os.scandir(at) as entries:
                found = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
            for name, is_directory in found:
                path = prefix + name
                if path in self._mounts:
                    self.problems.append((path, errno.EBUSY))
                elif is_directory:
                    self._attempt(path, lambda p: self._put_off(p, at), path)
                else:
                    self._attempt(path, lambda p: os.unlink(os.path.basename(p), dir_fd=at), path)
        finally:
            os.close(at)

    def _put_off(self, path: bytes, folder: int) -> None:
        look = os.stat(os.path.basename(path), dir_fd=folder, follow_symlinks=False)
        self._waiting.append(Directory(path, look))

    def _open(self, entry: Directory) -> int:
        """Open a directory; its owner may have closed it to himself."""
        try:
            at = open_below(self._root, entry.path, entry.identity)
        except PermissionError:
            self._let_owner_in(entry)
            at = open_below(self._root, entry.path, entry.identity)
        if entry.found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            try:
                os.fchmod(at, 0o700)
            except OSError:
                pass  # root of the namespace needs no mode bits, and others will fail by name
        return at

    def _let_owner_in(self, entry: Directory) -> None:
        if not entry.path:
            os.chmod(f"/proc/self/fd/{self._root}", 0o700)
            return
        folder, _, name = entry.path.rpartition(b"/")
        parent = open_below(self._root, folder)
        try:
            handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        finally:
            os.close(parent)
        try:
            found = os.fstat(handle)
            if (found.st_dev, found.st_ino) == entry.identity:
                # An O_PATH descriptor has no fchmod; its name in /proc has chmod, and no race.
                os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)

    def _drop(self, path: bytes) -> None:
        if len(path) <= _PATH_LIMIT:
            os.rmdir(path, dir_fd=self._root)
            return
        folder, _, name = path.rpartition(b"/")
        parent = open_below(self._root, folder)
        try:
            os.rmdir(name, dir_fd=parent)
        finally:
            os.close(parent)


def remove_here(path: str) -> list[Problem]:
    """Remove `path` and all below it with the rights of this process.

    Returns what could not be removed as (path below it, errno); nothing there is no problem.
    """
    name = os.fsencode(path)
    try:
        if not stat.S_ISDIR(os.lstat(name).st_mode):
            os.unlink(name)
            return []
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        root = os.open(name, flags)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [(b"", error.errno or errno.EIO)]
    try:
        remover = _Remover(root)
        remover.run()
    finally:
        os.close(root)
    problems = remover.problems
    try:
        if not problems:
            os.rmdir(name)
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append((b"", error.errno or errno.EIO))
    return problems


def needs_map(problems: list[Problem]) -> bool:
    """Whether more could be removed with rights over the caller's subordinate ids."""
    return any(number in _RIGHTS or number == errno.ENOTEMPTY for _, number in problems)


def first_problems(problems: list[Problem]) -> tuple[str, ...]:
    """The first ten as lines, those that are not a mere consequence of others before the rest."""
    ordered = sorted(problems, key=lambda problem: problem[1] == errno.ENOTEMPTY)
    lines = [f"{os.fsdecode(path) or '.'}: {os.strerror(n).lower()}" for path, n in ordered]
    return tuple(lines[:_NAMED])


def main(argv: list[str]) -> int:
    """Remove the trees argv; print what could not be removed, a line each; 0 when all went."""
    status = 0
    for path in argv:
        for line in first_problems(remove_here(path)):
            status = 1
            # Names may hold any byte: one line each, and readable in a message.
            print(line if line.isprintable() else ascii(line)[1:-1])
    sys.stdout.flush()
    return status

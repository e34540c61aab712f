"""What a root file system made of host files will hold, and writing it out.

Owns the list of entries and the copying. An `Inventory` maps paths inside to entries; adding a
host path brings every symbolic link on the way to it along, so that the same path works inside.
Which files are wanted is decided by `from_host` and `evident`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Literal

    Kind = Literal["directory", "link", "file", "text"]
    Progress = Callable[[int, int], None]

_MAX_LINKS = 40
_SET_ID = stat.S_ISUID | stat.S_ISGID


class Entry(Record):
    """One path inside. `source` is the host file, the link's target, or the text to write.

    `mode` holds permission bits without set-user-id and set-group-id; `size` bytes to write;
    `identity` is the (device, inode) of a host file with several names, else None.
    """

    kind: Kind
    source: str
    mode: int = 0o755
    size: int = 0
    identity: tuple[int, int] | None = None


class Inventory:
    """Entries by absolute path inside, plus the problems and warnings met on the way."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {"/": Entry("directory", "", 0o755)}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._known: dict[str, str] = {}

    @property
    def size(self) -> int:
        """Bytes that writing will copy; a file with several names counts once."""
        seen: set[tuple[int, int]] = set()
        total = 0
        for entry in self.entries.values():
            if entry.identity is not None and entry.identity in seen:
                continue
            total += entry.size
            if entry.identity is not None:
                seen.add(entry.identity)
        return total

    def add(self, path: str) -> str:
        """Add the host's `path` with all links that lead to it; return where they end.

        A directory is added without its content. Raises OSError when it does not exist.
        """
        if path in self._known:
            return self._known[path]
        todo = [part for part in path.split("/") if part not in ("", ".")]
        here, links = "/", 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                here = os.path.dirname(here)
                continue
            step = os.path.join(here, part)
            found = os.lstat(step)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(step)
                self._set(step, Entry("link", target))
                here = "/" if target.startswith("/") else here
                todo = [word for word in target.split("/") if word not in ("", ".")] + todo
                continue
            self._add_found(step, step, found)
            here = step
        self._known[path] = here
        return here

    def add_if_present(self, *paths: str) -> None:
        """Add those of `paths` that exist and can be read; what is missing stays missing."""
        for path in paths:
            if os.path.isdir(path):
                self.add_tree(path)
            elif os.path.isfile(path) and os.access(path, os.R_OK):
                self.add(path)

    def add_tree(
        self, path: str, *, skip: Callable[[str], bool] = lambda _: False, inside: str = ""
    ) -> list[str]:
        """Add a host directory with its content, or one file; return the regular files' paths.

        `inside` places it elsewhere. `skip` gets each host path. Files that links inside point
        to come along, directories do not; sockets, pipes and devices are left out with a warning.
        """
        base = self.place(inside) if inside else self.add(path)
        files: list[str] = []
        pending = [(path if inside else base, base)]
        while pending:
            source, target = pending.pop()
            try:
                found = os.stat(source) if source == path else os.lstat(source)
                pending += self._add_one(source, target, found, files, skip)
            except OSError as error:
                self.problems.append(f"{source}: {(error.strerror or 'cannot be read').lower()}")
        return files

    def _add_one(
        self,
        source: str,
        target: str,
        found: os.stat_result,
        files: list[str],
        skip: Callable[[str], bool],
    ) -> list[tuple[str, str]]:
        mode = found.st_mode
        if stat.S_ISLNK(mode):
            self._add_link(source, target)
        elif stat.S_ISDIR(mode):
            self._add_found(target, source, found)
            children = ((os.path.join(source, n), os.path.join(target, n)) for n in _list(source))
            return [pair for pair in children if not skip(pair[0])]
        elif stat.S_ISREG(mode):
            self._add_found(target, source, found)
            files.append(source)
        else:
            self.warnings.append(f"{source} is neither file, directory nor link: left out")
        return []

    def _add_link(self, source: str, target: str) -> None:
        text = os.readlink(source)
        self._set(target, Entry("link", text))
        if source == target and os.path.isfile(source) and os.access(source, os.R_OK):
            self.add(source)

    def _add_found(self, inside: str, source: str, found: os.stat_result) -> None:
        mode = stat.S_IMODE(found.st_mode) & ~_SET_ID
        if stat.S_ISDIR(found.st_mode):
            # The builder must be able to fill and later to remove it.
            self._set(inside, Entry("directory", source, mode | stat.S_IRWXU))
            return
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", source)
        if not os.access(source, os.R_OK):
            self.problems.append(f"{source}: cannot be read by this user (mode {mode:04o})")
        identity = (found.st_dev, found.st_ino) if found.st_nlink > 1 else None
        self._set(inside, Entry("file", source, mode, found.st_size, identity))

    def _set(self, inside: str, entry: Entry) -> None:
        old = self.entries.get(inside)
        if old is not None and old.kind != entry.kind and "directory" in (old.kind, entry.kind):
            self.problems.append(f"{inside}: is both a {old.kind} and a {entry.kind}")
            return
        self.entries[inside] = entry

    def put_text(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Add a small file of our own, unless something stands there already."""
        inside = self.place(inside)
        if inside not in self.entries:
            self.entries[inside] = Entry("text", text, mode, len(text.encode()))

    def put_link(self, inside: str, target: str) -> None:
        """Add a symbolic link of our own, unless something stands there already."""
        self.entries.setdefault(self.place(inside), Entry("link", target))

    def put_directory(self, inside: str, mode: int = 0o755) -> None:
        """Make sure that a directory exists; the mode of an own directory wins."""
        self._set(self.place(inside), Entry("directory", "", mode))

    def place(self, inside: str) -> str:
        """Where `inside` lies once the links among the entries are followed; adds its parents."""
        todo = [part for part in inside.split("/") if part not in ("", ".")]
        here, links = "/", 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                here = os.path.dirname(here)
                continue
            step = os.path.join(here, part)
            entry = self.entries.get(step)
            if entry is not None and entry.kind == "link" and todo and links < _MAX_LINKS:
                links += 1
                here = "/" if entry.source.startswith("/") else here
                todo = [word for word in entry.source.split("/") if word not in ("", ".")] + todo
                continue
            if todo:
                self._set(step, Entry("directory", "") if entry is None else entry)
            here = step
        return here

    def write(self, root: str, progress: Progress | None = None) -> None:
        """Write everything below the empty directory `root`. Raises OSError with the path."""
        first_names: dict[tuple[int, int], str] = {}
        done, total = 0, self.size
        for inside in sorted(self.entries):
            entry, target = self.entries[inside], root + inside
            if entry.kind == "directory":
                os.makedirs(target, exist_ok=True)
            elif entry.kind == "link":
                os.symlink(entry.source, target)
            elif entry.kind == "text":
                with open(target, "x", encoding="utf-8") as file:
                    file.write(entry.source)
                os.chmod(target, entry.mode)
            elif entry.identity in first_names:
                os.link(first_names[entry.identity], target)
            else:
                _copy_file(entry, target)
                if entry.identity is not None:
                    first_names[entry.identity] = target
            if progress is not None and entry.size:
                done = min(done + entry.size, total)
                progress(done, total)
        self._finish_directories(root)

    def _finish_directories(self, root: str) -> None:
        # Modes and times last and from the leaves up: filling a directory changes its times.
        for inside, entry in sorted(self.entries.items(), reverse=True):
            if entry.kind == "directory":
                os.chmod(root + inside, entry.mode)
                if entry.source:
                    found = os.stat(entry.source)
                    os.utime(root + inside, ns=(found.st_atime_ns, found.st_mtime_ns))


def _copy_file(entry: Entry, target: str) -> None:
    shutil.copyfile(entry.source, target)
    found = os.stat(entry.source)
    os.chmod(target, entry.mode)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _list(path: str) -> Iterable[str]:
    return sorted(os.listdir(path))


def words(text: str) -> tuple[str, ...]:
    """A table of names that is written as running text."""
    return tuple(text.split())


def links_at_top(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The (path, target) of those of the host's top-level `names` that are links to folders."""
    for name in names:
        path = "/" + name
        if os.path.islink(path) and os.path.isdir(path):
            yield path, os.readlink(path)

"""Open files below a root that may be hostile, without ever leaving it.

Each component is opened on its own with O_NOFOLLOW from the descriptor of its parent, and
symbolic links are resolved here, against the root: what openat2(2) does with RESOLVE_IN_ROOT,
for a Python that has no such call. Only regular files are read, and never more than a bound.
"""

from __future__ import annotations

import errno
import os
import stat

MAX_LINKS = 40
MAX_COMPONENTS = 256


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _open_component(parent: int, name: str) -> int:
    """An O_PATH descriptor of `name` itself, also when it is a symbolic link."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def _walk(root: str, path: str, *, follow: bool) -> tuple[list[int], list[str], str]:
    """Descriptors from the root to what `path` means, their names, and the one that is missing."""
    trail = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    names = [""]
    todo = _parts(path)
    links = steps = 0
    try:
        while todo:
            name = todo.pop(0)
            steps += 1
            if steps > MAX_COMPONENTS:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
            if name == "..":
                if len(trail) > 1:
                    os.close(trail.pop())
                    names.pop()
                continue
            try:
                found = _open_component(trail[-1], name)
            except FileNotFoundError:
                if todo:
                    place = "/".join((*names, name, *todo))
                    raise FileNotFoundError(
                        errno.ENOENT, os.strerror(errno.ENOENT), place
                    ) from None
                return trail, names, name
            if not stat.S_ISLNK(os.fstat(found).st_mode) or not (todo or follow):
                trail.append(found)
                names.append(name)
                continue
            links += 1
            try:
                text = os.readlink("", dir_fd=found)
            finally:
                os.close(found)
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if text.startswith("/"):
                while len(trail) > 1:
                    os.close(trail.pop())
                    names.pop()
            todo = _parts(text) + todo
    except BaseException:
        _close(trail)
        raise
    return trail, names, ""


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def open_path(root: str, path: str, *, follow: bool = True) -> int:
    """An O_PATH descriptor of what `path` means inside `root`, or of the symbolic link that it
    names itself. Raises OSError."""
    trail, _, missing = _walk(root, path, follow=follow)
    try:
        if missing:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return os.dup(trail[-1])
    finally:
        _close(trail)


def resolve(root: str, path: str) -> tuple[str, int]:
    """(`path` without its links, seen from `root`; st_mode of what is there, 0 for nothing).

    Raises OSError.
    """
    try:
        trail, names, missing = _walk(root, path, follow=True)
    except FileNotFoundError as error:
        return os.fspath(error.filename), 0
    try:
        mode = 0 if missing else os.fstat(trail[-1]).st_mode
        return "/".join((*names, missing) if missing else names), mode
    finally:
        _close(trail)


def open_parent(root: str, path: str) -> tuple[int, str]:
    """The folder in which `path` lies once its links are followed, an O_PATH descriptor, and its
    name there, which may be missing. Raises OSError; EISDIR for the root itself."""
    trail, names, missing = _walk(root, path, follow=True)
    try:
        if not missing and len(trail) < 2:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return os.dup(trail[-1 if missing else -2]), missing or names[-1]
    finally:
        _close(trail)


def read_file(root: str, path: str, limit: int = 1 << 20) -> bytes:
    """The content of a regular file inside `root`, at most `limit` bytes.

    Raises OSError; EINVAL for anything that is not a regular file, EFBIG above the limit.
    """
    found = open_path(root, path)
    try:
        info = os.fstat(found)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if info.st_size > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        # The magic link opens the very file that was looked at, whatever stands there now.
        fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(found)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)

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


def open_path(root: str, path: str) -> int:
    """An O_PATH descriptor of what `path` means inside `root`. Raises OSError."""
    trail = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
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
                continue
            found = _open_component(trail[-1], name)
            if not stat.S_ISLNK(os.fstat(found).st_mode):
                trail.append(found)
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
            todo = _parts(text) + todo
        return os.dup(trail[-1])
    finally:
        for fd in trail:
            os.close(fd)


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

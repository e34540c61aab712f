"""newuidmap and newgidmap: where they are, and whether they can be trusted and can work.

They are looked for in fixed folders, never on PATH: they run with more rights than the caller.
"""

from __future__ import annotations

import os
import stat

from sandbox.host.probe import read_kernel_file

HELPER_FOLDERS = (
    "/usr/bin",
    "/bin",
    "/usr/local/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/sbin",
    "/run/wrappers/bin",
)


def find_helper(name: str) -> str:
    """The absolute path of newuidmap or newgidmap that can be trusted and can work, else ""."""
    for folder in HELPER_FOLDERS:
        path = f"{folder}/{name}"
        if not helper_problem(path):
            return path
    return ""


def helper_problem(path: str) -> str:
    """Why `path` cannot serve as a set-user-ID helper; "" when it can."""
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.strerror or "").lower()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != 0:
        return "is not a regular file of the root user, as seen from here"
    if found.st_mode & 0o022:
        return "can be written by others"
    if not os.access(path, os.X_OK):
        return "cannot be executed"
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        return "lies on a file system that is mounted nosuid"
    if "NoNewPrivs:\t1" in read_kernel_file("/proc/self/status"):
        return "cannot gain rights, because this program runs with no_new_privs"
    if found.st_mode & stat.S_ISUID:
        return ""
    try:
        return "" if os.getxattr(path, "security.capability") else "has an empty capability"
    except OSError:
        return "is neither set-user-ID nor has a file capability"

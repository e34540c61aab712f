"""Runs a program of the host's system folders to its end, without what `subprocess` costs."""

from __future__ import annotations

import os

_FOLDERS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin")
_SAID_BYTES = 1 << 20
_ENVIRONMENT = {"PATH": ":".join(_FOLDERS), "LC_ALL": "C"}


def find_program(name: str) -> str | None:
    """The path of a program, whatever PATH says: it may run with root's rights."""
    for folder in _FOLDERS:
        if os.access(path := f"{folder}/{name}", os.X_OK):
            return path
    return None


def run_program(path: str, *words: str, text: str = "") -> tuple[int, str]:
    """Run it with `text` as its input; its exit code (-N: signal N) and all that it said."""
    given = os.memfd_create("input", os.MFD_CLOEXEC)
    said = os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(given), "wb") as file:
            file.write(text.encode())
        os.lseek(given, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, fd, at) for at, fd in enumerate((given, said, said))]
        pid = os.posix_spawn(path, [path, *words], _ENVIRONMENT, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), os.pread(said, _SAID_BYTES, 0).decode(
            "utf-8", "replace"
        )
    finally:
        os.close(given)
        os.close(said)

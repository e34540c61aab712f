"""What to run, and everything that can be wrong with it before anything is made."""

from __future__ import annotations

import os
import stat

from sandbox.errors import RootfsError, UsageError
from sandbox.launcher.spawn import check_pass_fds
from sandbox.policy.units import format_size, quote
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Pairs = Iterable[tuple[str, str]]

MAX_STRING_BYTES = 128 << 10  # execve(2): MAX_ARG_STRLEN, with the final NUL
MAX_NAME_CHARS = 64
_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


LOG_MAX = 8 << 20
UNLIMITED = 2**32 - 1


class Keeping(Record):
    """How a sandbox is kept.

    `detached`: nobody stays with it but its launcher; `owned`: until this process ends. `idle`:
    it has no command of its own. `input`: its input stays open for those who attach.
    `auto_remove`: nothing is kept of it once it is dead. `restarts`: how often it is started
    again after a failure. `log_max`: bytes of output kept, the oldest go first.
    """

    detached: bool = False
    owned: bool = False
    idle: bool = False
    input: bool = False
    auto_remove: bool = False
    restarts: int = 0
    log_max: int = LOG_MAX


class Task(Record):
    """What to run: `rootfs` is a path of the caller's, `env` its environment (None: os.environ).

    `name` is shown in reports; "" makes one up. `pass_fds` keep their numbers inside.
    """

    rootfs: str
    argv: tuple[str, ...]
    name: str = ""
    env: tuple[tuple[str, str], ...] | None = None
    pass_fds: tuple[int, ...] = ()


def check_task(task: Task, env: Pairs) -> None:
    """Refuse what can never be started, all problems at once. `env`: what the policy sets.

    Raises UsageError, and RootfsError when nothing but the root file system is wrong.
    """
    problems = _usage_problems(task, env)
    error = _rootfs_error(task.rootfs)
    if problems:
        raise UsageError("this cannot be run", problems=(*problems, *_lines(error)))
    if error:
        raise error
    check_pass_fds(task.pass_fds)


def task_problems(task: Task) -> tuple[str, ...]:
    """The same as lines, for an error that has others to name as well."""
    return (*_usage_problems(task, ()), *_lines(_rootfs_error(task.rootfs)))


def _lines(error: RootfsError | None) -> tuple[str, ...]:
    return (f"rootfs: {error.what}: {error.cause}",) if error else ()


def check_words(argv: tuple[str, ...], env: Pairs) -> None:
    """Refuse a command line or variables that execve(2) would not take. Raises UsageError."""
    problems = _word_problems(argv, env)
    if problems:
        raise UsageError("this cannot be run", problems=tuple(problems))


def _usage_problems(task: Task, env: Pairs) -> list[str]:
    return _word_problems(task.argv, env) + _name_problems(task.name)


def _word_problems(argv: tuple[str, ...], env: Pairs) -> list[str]:
    if not argv or not argv[0]:
        found = ["command: is missing" if not argv else "command: must not be empty"]
    else:
        names = ["command", *(f"argument {number}" for number in range(1, len(argv)))]
        found = [line for pair in zip(names, argv, strict=True) for line in _string(*pair)]
    for name, value in env:
        found += _string(f"environment variable {quote(name)}", f"{name}={value}")
    return found


def _string(what: str, text: str) -> list[str]:
    """Why execve(2) would not take a string."""
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError:
        return [f"{what}: must be valid text"]
    found = [f"{what}: must not hold a NUL byte"] if "\0" in text else []
    if size >= MAX_STRING_BYTES:
        limit = format_size(MAX_STRING_BYTES)
        found.append(f"{what}: has {size} bytes, the kernel takes less than {limit}")
    return found


def _name_problems(name: str) -> list[str]:
    if not name:
        return []
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    if len(name) > MAX_NAME_CHARS or not (plain.isascii() and plain.isalnum()):
        return [f"name: must be up to {MAX_NAME_CHARS} letters, digits, dots, dashes, underscores"]
    return []


def _rootfs_error(path: str) -> RootfsError | None:
    what = f"cannot use {quote(path)} as the root file system"
    if not path or "\0" in path or "\n" in path:
        return RootfsError(what, cause="it is empty or contains a NUL or a newline")
    try:
        mode = os.stat(path).st_mode
    except UnicodeEncodeError:
        return RootfsError(what, cause="it is no valid text")
    except OSError as error:
        cause = (error.strerror or "").lower()
        if os.path.islink(path) and isinstance(error, FileNotFoundError):
            cause = "it is a symbolic link that leads nowhere"
        hint = (
            "name a directory that holds one (images are not pulled, unpack one first), "
            "or make one: sbx rootfs from-host OUT PROGRAM"
        )
        return RootfsError(what, cause=cause, hint=hint)
    if not stat.S_ISDIR(mode):
        archive = "if it is an archive, unpack it: mkdir DIR && tar -xf FILE -C DIR"
        return RootfsError(
            what,
            cause=f"it is {_KINDS[stat.S_IFMT(mode)]}, not a directory",
            hint=archive if stat.S_ISREG(mode) else "name a directory that holds one",
        )
    try:
        os.stat(f"{path}/.")  # as access(2) with the effective ids, which filters may refuse
    except OSError as error:
        rights = isinstance(error, PermissionError)
        hint = "chmod it, or run as its owner" if rights else "name another path that leads there"
        return RootfsError(what, cause=(error.strerror or "").lower(), hint=hint)
    return None

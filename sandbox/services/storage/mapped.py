"""Programs of this package run as root of a user namespace with the caller's ids.

Owns the start of sbx-idmap, its end whatever happens here, and the choice of the map. The
namespace gives rights over files of the caller and of its subordinate ids, and over no others.
"""

from __future__ import annotations

import os
import sys

from sandbox.errors import SbxError
from sandbox.host.subids import range_map, single_map, without_inside
from sandbox.linux.paths import native
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from sandbox.host.facts import HostFacts
    from sandbox.host.subids import Extents

    Mask = set[signal.Signals | int]
else:  # the module `signal` would import enum
    import _signal as signal

_START = (
    "import os, sys; sys.path.insert(0, sys.argv[1]); "
    "from sandbox.services.storage.{module} import main; os._exit(main(sys.argv[2:]))"
)
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_SIGKILL = 9
_WORDS_BYTES = 4000


class Done(Record):
    """The exit status of a program (128+n for signal n), its output, its last words."""

    status: int
    output: str
    words: str


def _overflow(kind: str) -> int:
    try:
        with open(f"/proc/sys/kernel/overflow{kind}", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534


def _whole(kind: str) -> Extents:
    """Every id of the present namespace as itself."""
    with open(f"/proc/self/{kind}_map", "rb") as file:
        lines = [line.split() for line in file]
    return tuple((int(inside), int(inside), int(count)) for inside, _, count in lines)


def maps(facts: HostFacts, *, single: bool) -> tuple[Extents, Extents]:
    """The user and group map: the caller as 0, and all its subordinate ids unless `single`.

    Root has rights over all files, so it gets all ids there are. For others, the kernel's
    overflow ids are left out, so that a file that shows one has an owner without a number.
    """
    if facts.uid == 0:
        return _whole("uid"), _whole("gid")
    if single or not (facts.subuids and facts.subgids and facts.newuidmap and facts.newgidmap):
        return single_map(facts.uid, 0), single_map(facts.gid, 0)
    # All of the ranges, as sandboxes with other maps may have used any part of them.
    total = max(sum(count for _, count in r) for r in (facts.subuids, facts.subgids)) + 1
    return (
        without_inside(range_map(facts.uid, facts.subuids, total), _overflow("uid")),
        without_inside(range_map(facts.gid, facts.subgids, total), _overflow("gid")),
    )


def _argv(module: str, arguments: tuple[str, ...], facts: HostFacts, single: bool) -> list[str]:
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    python = sys.executable or "/usr/bin/python3"
    program = [python, "-I", "-S", "-c", _START.format(module=module), package, *arguments]
    uids, gids = maps(facts, single=single)
    argv = [native("sbx-idmap"), "--parent", str(os.getpid())]
    for option, extents in (("--uid", uids), ("--gid", gids)):
        for inside, outside, count in extents:
            argv += [option, f"{inside}:{outside}:{count}"]
    for option, helper in (("--newuidmap", facts.newuidmap), ("--newgidmap", facts.newgidmap)):
        argv += [option, helper] if helper else []
    return [*argv, "--", *program]


def _collect(pid: int, output: int, mask: Mask) -> tuple[int, bytes]:
    """Read to the end, which is when no process of the program is left; then reap it."""
    whole = False
    parts = []
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        while part := os.read(output, 65536):
            parts.append(part)
        whole = True
    finally:
        if not whole:
            # Not reaped yet, so the number still stands for its process group.
            os.killpg(pid, _SIGKILL)
            while os.read(output, 65536):
                pass
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code, b"".join(parts)


def run_mapped(module: str, *arguments: str, facts: HostFacts, single: bool = False) -> Done:
    """Run `main(arguments)` of a sibling module as root of a fresh user namespace.

    With `single`, or without subordinate ids, only the caller's own id has a number there.
    Everything that was started has ended on return, also when this function is left by an
    exception, and ends when this process is killed. Raises SbxError when it cannot start.
    """
    argv = _argv(module, arguments, facts, single)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    words = os.memfd_create("words", os.MFD_CLOEXEC)
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, writing, 1),
            (os.POSIX_SPAWN_DUP2, words, 2),
        ]
        # An exception of a handler between here and the `try` of _collect would lose the child.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.posix_spawn(
                argv[0],
                argv,
                _ENVIRONMENT,
                file_actions=actions,
                setpgroup=0,
                setsigmask=mask,
            )
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            cause = (error.strerror or "").lower()
            raise SbxError(f"cannot start {argv[0]}", cause=cause) from error
        finally:
            os.close(writing)
        status, output = _collect(pid, reading, mask)
        said = os.pread(words, _WORDS_BYTES, 0).decode("utf-8", "replace").strip()
        return Done(status, output.decode("utf-8", "surrogateescape"), said)
    finally:
        os.close(reading)
        os.close(words)

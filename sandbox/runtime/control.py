"""What is done to living sandboxes from outside: signals, stopping, pausing, removing.

Every function here returns when its work is done, not when it was asked for.
"""

from __future__ import annotations

import errno
import os
import time

from sandbox.errors import SbxError, StateError
from sandbox.runtime.following import Ending
from sandbox.runtime.history import conclude, moments, read_history
from sandbox.runtime.keeper import Keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence

    from sandbox.runtime.history import History
    from sandbox.runtime.registry import Folder
else:  # the module `signal` would import enum
    import _signal as signal

STOP_S = 10.0  # between TERM and KILL
DEATH_S = 20.0  # from the kill to the end of the last process

_LAST_STEPS_S = 1.0  # of a launcher that listens no more
_NOT_NOW = (errno.EAGAIN, errno.ESRCH)  # it is being set up, or waits for its next start


def send_signal(folder: Folder, number: int) -> None:
    """Send a signal to the payload; SIGKILL kills everything, and is over when all are dead.

    Raises StateError when the sandbox does not run.
    """
    if number == signal.SIGKILL:
        _kill(folder)
        return
    with Keeper(folder) as keeper:
        try:
            keeper.signal(number)
        except OSError as error:
            raise StateError(
                f"cannot signal sandbox {folder.name}",
                cause=(error.strerror or str(error)).lower(),
                hint="it is being started: try again" if error.errno in _NOT_NOW else "",
            ) from error


def _kill(folder: Folder) -> None:
    ending = Ending(folder)
    try:
        with Keeper(folder) as keeper:
            keeper.kill()
        if not ending.wait(DEATH_S):
            raise StateError(
                f"sandbox {folder.name} does not die",
                cause=f"it was killed {DEATH_S:.0f} s ago, and a process is still in the kernel",
                hint="a device or network file system may hold it: wait, and look at dmesg",
            )
    finally:
        ending.close()


def stop(folders: Sequence[Folder], timeout_s: float = STOP_S) -> None:
    """End sandboxes: SIGTERM to each command, SIGKILL to all that is left after `timeout_s`.

    All processes of all of them are dead on return. Those that have ended already stay as they
    are. Raises StateError for the first that does not die.
    """
    waiting = [(folder, Ending(folder)) for folder in folders]
    try:
        for folder, _ in waiting:
            if timeout_s > 0:
                _terminate(folder)
        limit = time.monotonic() + timeout_s
        for folder, ending in waiting:
            if not ending.wait(max(0.0, limit - time.monotonic())):
                _unless_gone(folder, _kill)
    finally:
        for _, ending in waiting:
            ending.close()


def _terminate(folder: Folder) -> None:
    """SIGTERM; one that is paused would not take it before it goes on."""
    paused = read_history(folder).state == "paused"

    def terminate(folder: Folder) -> None:
        with Keeper(folder) as keeper:
            try:
                keeper.signal(signal.SIGTERM)
                if paused:
                    keeper.thaw()
            except OSError as error:
                if error.errno not in _NOT_NOW:
                    raise

    _unless_gone(folder, terminate)


def _unless_gone(folder: Folder, do: Callable[[Folder], None]) -> None:
    try:
        do(folder)
    except StateError:
        ending = Ending(folder)
        try:
            if not ending.wait(_LAST_STEPS_S):
                raise
        finally:
            ending.close()


def wait(folder: Folder, timeout_s: float | None = None) -> History | None:
    """Wait for the end of a sandbox; what is known of its life, or None when the time is up.

    It is known also of one whose folder somebody removes at its end.
    """
    try:
        records = folder.open("events")
    except FileNotFoundError:
        records = -1
    ending = Ending(folder)
    try:
        if not ending.wait(timeout_s):
            return None
        return conclude(moments(_read(records)), alive=False)
    finally:
        ending.close()
        if records >= 0:
            os.close(records)


def _read(fd: int) -> bytes:
    if fd < 0:
        return b""
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def pause(folder: Folder) -> None:
    """Stop all processes: its control group is frozen, and where it has none they get SIGSTOP.

    Raises StateError.
    """
    from sandbox.runtime.grouped import group_of

    _switch(folder, "running", "pause", Keeper.freeze)
    group = group_of(folder)
    if group is None:
        return
    try:
        if not group.wait_frozen():
            raise StateError(
                f"some processes of sandbox {folder.name} have not stopped yet",
                cause="they are in the kernel, and stop as soon as they leave it",
                hint=f"wait, or let the others go on: sbx unpause {folder.name}",
            )
    finally:
        group.release()


def unpause(folder: Folder) -> None:
    """Let all processes go on, without a control group by SIGCONT. Raises StateError."""
    _switch(folder, "paused", "unpause", Keeper.thaw)


def _switch(folder: Folder, before: str, word: str, order: Callable[[Keeper], None]) -> None:
    with Keeper(folder) as keeper:
        state = read_history(folder).state
        if state != before:
            raise StateError(f"cannot {word} sandbox {folder.name}", cause=f"it is {state}")
        try:
            order(keeper)
        except OSError as error:
            cause = (error.strerror or str(error)).lower()
            if error.errno == errno.EOPNOTSUPP:
                cause = "it runs without an init of ours (--no-init), which would do it"
                if "pid" in folder.description.shares:
                    cause = "it has no control group, and its processes are among another's (--pid)"
            raise StateError(
                f"cannot {word} sandbox {folder.name}",
                cause=cause,
            ) from error


def remove(folder: Folder, *, force: bool = False) -> None:
    """Remove what is known of a sandbox, killed first with `force`. Raises StateError."""
    if force:
        _unless_gone(folder, _kill)
    elif folder.lives():
        raise StateError(
            f"sandbox {folder.name} is running",
            cause="only what has ended can be removed",
            hint=f"sbx stop {folder.name}, or: sbx rm -f {folder.name}",
        )
    limit = time.monotonic() + DEATH_S
    while not folder.remove():
        if not folder.lives():
            return  # somebody else has removed it
        if time.monotonic() > limit:
            raise StateError(
                f"cannot remove sandbox {folder.name}",
                cause="it is dead, and whoever started it still holds its folder",
            )
        time.sleep(0.02)


def remove_workspaces() -> list[str]:
    """Remove the copies of root file systems whose sandboxes are gone; their paths."""
    from sandbox.host.probe import host_facts
    from sandbox.linux.workspace import reap_leftovers
    from sandbox.services.storage import remove_tree

    try:
        facts = host_facts()
        return reap_leftovers(lambda path: remove_tree(path, facts))
    except SbxError:  # a host that lacks what is needed has made none
        return []

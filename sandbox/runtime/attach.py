"""Being connected to the command of a detached sandbox for a while.

Output comes from the log as it grows, input goes straight into the payload's pipe or terminal.
Whoever attaches can go at any time, and several can be there at once.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import struct
import termios

from sandbox.errors import StateError
from sandbox.record import Record
from sandbox.runtime import control
from sandbox.runtime.endpoint import Endpoint, open_endpoint
from sandbox.runtime.following import Follower
from sandbox.runtime.history import conclude, moments
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.logs import LogReader
from sandbox.runtime.output import Inflow
from sandbox.runtime.signals import FATAL, FORWARDED, SignalInbox
from sandbox.runtime.terminal import terminal_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable

    from sandbox.runtime.logs import Output
    from sandbox.runtime.registry import Folder

    Show = Callable[[Iterable[Output]], None]
else:  # the module `signal` would import enum
    import _signal as signal

_SIZE = struct.Struct("4H")  # struct winsize: rows, columns, two unused


class Left(Record):
    """How it ended: `exit_code` of the sandbox, or None when we went and it goes on.

    `signal` is the signal that made us go, 0 for the detach keys.
    """

    exit_code: int | None
    signal: int = 0


class _Typed(Endpoint):
    """Standard input of a terminal, up to the detach keys."""

    def __init__(self, fd: int, keys: bytes) -> None:
        super().__init__(fd, writing=False)
        self._keys = keys
        self._begun = b""
        self.left = self.ended = False

    def read(self) -> bytes | None:
        """As Endpoint's; what might be the beginning of the keys waits for what comes next."""
        data = super().read()
        self.ended = data == b""
        if not data or not self._keys:
            return data
        data = self._begun + data
        before, found, _ = data.partition(self._keys)
        if found:
            self.left = True
            return before or None
        kept = next(n for n in range(len(self._keys) - 1, -1, -1) if data.endswith(self._keys[:n]))
        self._begun = data[len(data) - kept :]
        return data[: len(data) - kept] or None


class _Attached:
    """One connection, from `run`'s beginning to its end."""

    def __init__(self, folder: Folder, stdin: int | None, keys: bytes, show: Show) -> None:
        self._folder = folder
        self._keeper = Keeper(folder)
        self._tty = folder.description.tty
        self._show = show
        self._reader = LogReader(folder, at_end=True)
        self._follower = Follower(folder)
        self._inbox = SignalInbox()
        self._records = folder.open("events")
        self._seen = 0
        self._target = -1
        self._inflow: Inflow | None = None
        self._source: _Typed | None = None
        typing = stdin is not None and os.isatty(stdin)
        self._passes_end = False
        if stdin is not None and _is_open(stdin):
            self._source = _Typed(stdin, keys if typing else b"")
            self._passes_end = _has_an_end(stdin) and not self._tty
        self._terminal = terminal_of((stdin, 1, 2)) if self._tty else None

    def run(self) -> Left:
        """Stay until the sandbox ends or somebody wants to go."""
        try:
            self._inbox.open((*FORWARDED, signal.SIGWINCH, signal.SIGCONT, *FATAL))
            if self._terminal:
                self._terminal.enter()
            self._connect()
            self._redraw()
            return self._stay()
        finally:
            self._close()

    def _close(self) -> None:
        if self._terminal:
            self._terminal.leave()
        self._disconnect()
        if self._source:
            self._source.close()
        self._inbox.close()
        self._reader.close()
        self._follower.close()
        self._keeper.close()
        os.close(self._records)

    def _stay(self) -> Left:
        while True:
            ended = self._follower.ended()  # before the reading: then that finds all there is
            self._show(self._reader.read())
            if ended:
                return Left(self._exit_code())
            self._connect()
            ready = self._follower.wait(self._interest())
            if self._inflow:
                self._inflow.step(ready)
                if self._source and self._source.left:
                    return Left(None)
                if not self._inflow.open and not self._tty:
                    self._disconnect()
                    self._pass_end()
            if self._inbox.fd in ready:
                for number in self._inbox.read():
                    if self._on_signal(number):
                        return Left(None, number)

    def _exit_code(self) -> int:
        with open(self._records, "rb", closefd=False) as file:
            return conclude(moments(file.read()), alive=False).exit_code or 0

    def _interest(self) -> list[tuple[int, int]]:
        found = {self._inbox.fd: select.POLLIN} if self._inbox.fd >= 0 else {}
        for fd, mask in self._inflow.interest() if self._inflow else ():
            found[fd] = found.get(fd, 0) | mask
        return list(found.items())

    # ---- input ------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Take the payload's input, and after another start of the payload the new one.

        Raises StateError when its launcher serves too many at once.
        """
        seen, self._seen = self._seen, os.fstat(self._records).st_size
        if seen == self._seen or (self._target >= 0 and not _is_broken(self._target)):
            return
        self._disconnect()
        try:
            kind, fd = self._keeper.input()
        except (StateError, OSError):
            if self._follower.ended() or seen:
                return
            raise
        if kind == "pipe" and (self._source is None or self._source.ended):
            os.close(fd)  # who holds it keeps the payload from the end that others give
            self._pass_end()
            return
        if kind == "pipe":
            fd = _reopened(fd)
        if fd < 0:
            return
        self._target = fd
        if self._source and not self._source.ended:
            self._inflow = Inflow(self._source, os.dup(fd))
        self._resize()

    def _pass_end(self) -> None:
        """Tell that our input has ended: the launcher no longer holds the payload's open."""
        if not (self._passes_end and self._source and self._source.ended):
            return
        try:
            self._keeper.end_input()
        except (StateError, OSError):  # it has ended itself
            return

    def _disconnect(self) -> None:
        if self._inflow:
            self._inflow.end()
            self._inflow = None
        if self._target >= 0:
            os.close(self._target)
            self._target = -1

    # ---- the terminal -----------------------------------------------------------------------

    def _resize(self) -> None:
        if self._terminal and self._target >= 0:
            self._terminal.copy_size(self._target)

    def _redraw(self) -> None:
        """Programs that fill the screen draw it anew when its size changes."""
        if not self._terminal or self._target < 0:
            return
        try:
            rows, *others = _SIZE.unpack(fcntl.ioctl(self._target, termios.TIOCGWINSZ, bytes(8)))
            fcntl.ioctl(self._target, termios.TIOCSWINSZ, _SIZE.pack(rows + 1, *others))
        except (OSError, struct.error):
            return
        self._resize()

    def _on_signal(self, number: int) -> bool:
        """Whether to go."""
        if number == signal.SIGWINCH:
            self._resize()
        elif number == signal.SIGCONT:
            if self._terminal:
                self._terminal.enter()
            self._resize()
        elif self._tty or number in FATAL:
            return True
        else:
            try:
                control.send_signal(self._folder, number)
            except StateError:  # it has ended, or starts anew
                return False
        return False


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _has_an_end(fd: int) -> bool:
    """Whether its end is somebody's word: /dev/null and the like only say that none is there."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def _is_broken(fd: int) -> bool:
    """Whether nobody is at the other side of a pipe or terminal any more."""
    poller = select.poll()
    poller.register(fd, 0)
    return bool(poller.poll(0))


def _reopened(fd: int) -> int:
    """The same pipe with flags of our own, for writing without blocking; closes `fd`."""
    endpoint = open_endpoint(fd, writing=True)
    os.close(fd)
    if endpoint is None:
        return -1
    try:
        return os.dup(endpoint.fd)
    finally:
        endpoint.close()


def attach(folder: Folder, *, stdin: int | None, keys: bytes, show: Show) -> Left:
    """Stay connected to a detached sandbox until its end, or until `keys` are typed.

    `stdin`: a descriptor whose input goes to the payload, None for none; the end of a pipe or a
    file ends the payload's input, unless that is a terminal. `show` gets the output. Raises
    StateError for one that has ended.
    """
    return _Attached(folder, stdin, keys, show).run()

"""Signals of the calling process as bytes on a pipe, and their names.

Owns the handlers while a sandbox runs. Only Python's main thread may install handlers: in any
other thread nothing is caught and nothing is forwarded.
"""

from __future__ import annotations

import os

from sandbox.errors import Interrupted

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
else:  # the module `signal` would import enum
    import _signal as signal

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
CAUGHT = (*FORWARDED, signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP)
# Would end this process without restoring the terminal.
FATAL = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGXCPU, signal.SIGIO)


def signal_name(number: int) -> str:
    """The name of a signal, "SIGKILL" for 9; "SIGRTMIN+n" or the number where it has none."""
    for name in ("SIGHUP", "SIGABRT", "SIGIO", "SIGCHLD"):  # those that have a second name
        if getattr(signal, name) == number:
            return name
    for name in dir(signal):
        plain = name.startswith("SIG") and not name.startswith(("SIG_", "SIGRT"))
        if plain and getattr(signal, name) == number:
            return name
    first = int(signal.SIGRTMIN)
    return f"SIGRTMIN+{number - first}" if first <= number <= 64 else f"signal {number}"


def _noted(number: int, frame: FrameType | None) -> None:
    """Nothing: the byte on the pipe is what counts."""


class SignalInbox:
    """Catches signals between `open` and `close`; `fd` becomes readable when one came.

    A signal that the caller ignores (nohup, background jobs of sh) stays ignored.
    """

    def __init__(self) -> None:
        self.fd = -1
        self._writing = -1
        self._old_wakeup = -1
        self._old: list[tuple[int, object]] = []

    def open(self, numbers: tuple[int, ...]) -> None:
        """Start catching; in a thread other than the main one nothing happens."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        try:
            self._old_wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        except ValueError:  # not the main thread
            os.close(reading)
            os.close(writing)
            return
        self.fd, self._writing = reading, writing
        for number in numbers:
            old = signal.getsignal(number)
            if old is not None and old != signal.SIG_IGN:
                self._old.append((number, old))
                signal.signal(number, _noted)

    def read(self) -> bytes:
        """The numbers that came since the last call, in order."""
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Put everything back as it was."""
        if self.fd < 0:
            return
        while self._old:
            number, old = self._old.pop()
            signal.signal(number, old)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.fd)
        os.close(self._writing)
        self.fd = self._writing = -1


class Interrupts:
    """Between `open` and `close` no signal ends this process before it has cleaned up.

    Inside `with` the first one raises Interrupted, at all other times it waits for `check`. In
    a thread other than the main one nothing is caught.
    """

    def __init__(self) -> None:
        self._old: list[tuple[int, object]] = []
        self._came = 0
        self._raising = False

    def open(self) -> None:
        """Start catching what would end this process, unless the caller ignores it."""
        for number in FORWARDED:
            old = signal.getsignal(number)
            if old in (signal.SIG_DFL, signal.default_int_handler):
                try:
                    signal.signal(number, self._on_signal)
                except ValueError:  # not the main thread
                    return
                self._old.append((number, old))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        first, self._came = not self._came, self._came or number
        if first and self._raising:
            raise _interrupted(number)

    def check(self) -> None:
        """Raise Interrupted when a signal has come."""
        if self._came:
            raise _interrupted(self._came)

    def __enter__(self) -> None:
        self._raising = True
        self.check()

    def __exit__(self, *_: object) -> None:
        self._raising = False

    def close(self) -> None:
        """Put everything back as it was."""
        while self._old:
            number, old = self._old.pop()
            signal.signal(number, old)  # type: ignore[arg-type]


def _interrupted(number: int) -> Interrupted:
    name = signal_name(number)
    return Interrupted(f"{name} came before the command was started", number=number)

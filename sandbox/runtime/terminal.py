"""The caller's terminal while a sandbox has a pseudo-terminal of its own.

Owns raw mode and its restoration, and the window size. The sandbox never gets this terminal:
it has a pty of its own devpts, whose master is relayed here.
"""

from __future__ import annotations

import fcntl
import os
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIZE_BYTES = 8  # struct winsize: four unsigned shorts
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


class Terminal:
    """The terminal behind `fd` (its size), switched to raw mode where `typing` is set.

    Without typed input the terminal keeps its mode, so that its own Ctrl-C goes on to work.
    """

    def __init__(self, fd: int, *, typing: bool) -> None:
        self.fd = fd
        self._typing = typing
        self._saved: list[Any] | None = None

    def enter(self) -> None:
        """Switch to raw mode; nothing happens while this process is in the background."""
        if not self._typing or not self._in_foreground():
            return
        try:
            mode = termios.tcgetattr(self.fd)
            self._saved = self._saved or termios.tcgetattr(self.fd)
            termios.tcsetattr(self.fd, termios.TCSANOW, _raw(mode))
        except termios.error:
            self._saved = None

    def leave(self) -> None:
        """Restore the mode found by the first `enter`; safe to call at any time."""
        saved, self._saved = self._saved, None
        # In the background the terminal is somebody else's, and SIGTTOU would stop us.
        if saved and self._in_foreground():
            try:
                termios.tcsetattr(self.fd, termios.TCSANOW, saved)
            except termios.error:
                return

    def copy_size(self, master: int) -> None:
        """Give the pty the window size of the terminal; the kernel tells the payload."""
        try:
            size = fcntl.ioctl(self.fd, termios.TIOCGWINSZ, bytes(_SIZE_BYTES))
            fcntl.ioctl(master, termios.TIOCSWINSZ, size)
        except OSError:
            return

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:
            return False


def _raw(mode: list[Any]) -> list[Any]:
    """The mode of cfmakeraw(3)."""
    mode[_IFLAG] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    mode[_OFLAG] &= ~termios.OPOST
    mode[_CFLAG] = mode[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[_LFLAG] &= ~(
        termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN
    )
    mode[_CC][termios.VMIN] = 1
    mode[_CC][termios.VTIME] = 0
    return mode


def terminal_of(ends: tuple[object, object, object]) -> Terminal | None:
    """The terminal behind stdin, stdout, stderr, for a sandbox with one of its own; or none."""
    fds = [fd if isinstance(fd, int) else -1 for fd in ends]
    typed, shown = find_terminal(fds[0]), find_terminal(*fds)
    return None if shown is None else Terminal(shown, typing=typed is not None)


def find_terminal(*fds: int) -> int | None:
    """The first of `fds` that is a terminal."""
    for fd in fds:
        if fd >= 0 and os.isatty(fd):
            return fd
    return None

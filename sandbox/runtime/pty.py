"""The sandbox's own terminal as seen from its master: kept alive, and told the end of the input.

Owns the other side of the master. As long as it is open, a payload that closes all its
descriptors of the terminal hangs nothing up, and what was typed and not yet read can be asked for.
"""

from __future__ import annotations

import fcntl
import os
import select
import termios

_TIOCGPTPEER = 0x5441  # ioctl_tty(2); not in the module termios
_CC = 6
_END_KEY = b"\x04"


class Pty:
    """The terminal whose master is `master`, which is not blocking and ours from now on."""

    def __init__(self, master: int) -> None:
        os.set_blocking(master, False)
        self.master = master
        self._peer = -1
        self.revive()

    def revive(self) -> bool:
        """Open the other side (again); False when that cannot be done any more.

        A hang-up, when a session inside has ended, closes it for good; a fresh one makes the
        master readable again for what other sessions write.
        """
        self.close()
        try:
            self._peer = fcntl.ioctl(
                self.master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
            )
        except OSError:
            return False
        return True

    def is_read(self) -> bool:
        """Whether everything typed so far was read, an end of input included."""
        if self._peer < 0:
            return False
        poller = select.poll()
        poller.register(self._peer, select.POLLIN)
        return not poller.poll(0)

    def end_key(self) -> bytes:
        """What the payload's settings take for the end of the input."""
        try:
            key: bytes = termios.tcgetattr(self._peer)[_CC][termios.VEOF]
        except (termios.error, OSError):
            return _END_KEY
        return key if key != b"\0" else _END_KEY

    def close(self) -> None:
        """Close the other side; the master stays."""
        peer, self._peer = self._peer, -1
        if peer >= 0:
            os.close(peer)

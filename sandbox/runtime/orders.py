"""Orders to a supervisor from outside of its loop: from other threads, from finalizers."""

from __future__ import annotations

import os
from _thread import RLock

from sandbox.launcher.events import KILL_ALL


class Orders:
    """`fd` becomes readable when an order has come. Numbers are those of signals, and KILL_ALL.

    Posting is safe everywhere, also after `close` (it does nothing then) and while the garbage
    collector interrupts somebody who posts.
    """

    def __init__(self) -> None:
        # Reentrant: a finalizer may run in the middle of any of these methods.
        self._lock = RLock()
        self._posted: list[int] = []
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def post(self, number: int) -> bool:
        """Send a signal to the payload, or KILL_ALL; False when there is nobody left to obey."""
        with self._lock:
            if self.fd < 0:
                return False
            self._posted.append(number)
            os.eventfd_write(self.fd, 1)
            return True

    def kill(self) -> bool:
        """Have everything in the sandbox killed."""
        return self.post(KILL_ALL)

    def read(self) -> list[int]:
        """The orders that came since the last call, in order."""
        with self._lock:
            try:
                os.eventfd_read(self.fd)
            except BlockingIOError:
                return []
            posted, self._posted = self._posted, []
            return posted

    def close(self) -> None:
        """Nobody obeys any more."""
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1

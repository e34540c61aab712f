"""Waiting for what a sandbox does next: its end, and changes in its folder."""

from __future__ import annotations

import os
import select
import time

from sandbox.linux import inotify
from sandbox.runtime.registry import start_ticks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.runtime.registry import Folder

_POLL_S = 0.05


class Ending:
    """The end of one sandbox: `fd` becomes readable with it.

    However many wait, none of them takes a place at its launcher. Close it in any case.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.fd = -1
        self._look()

    def _look(self) -> None:
        """A descriptor of the launcher; the kernel gave its number to nobody else before that."""
        known = self._folder.description
        if not known.pid:
            return
        try:
            fd = os.pidfd_open(known.pid)
        except OSError:  # it has ended, or an outer filter refuses the call: `ended` polls
            return
        if start_ticks(known.pid) == known.started_ticks:
            self.fd = fd
        else:
            os.close(fd)

    def ended(self) -> bool:
        """Whether the sandbox has ended."""
        return _poll((self.fd,), 0.0) if self.fd >= 0 else not self._folder.lives()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; False when the time is up."""
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.ended():
            left = None if limit is None else max(0.0, limit - time.monotonic())
            if left == 0.0:
                return False
            if self.fd >= 0:
                _poll((self.fd,), left)
            else:
                time.sleep(_POLL_S if left is None else min(left, _POLL_S))
        return True

    def close(self) -> None:
        """Wait no longer."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Follower:
    """Wakes whoever reads what a sandbox writes down, and at its end."""

    def __init__(self, folder: Folder) -> None:
        self._ending = Ending(folder)
        self._watch = inotify.Watch()
        mask = inotify.MODIFY | inotify.CREATE | inotify.MOVED_TO
        try:
            self._watch.add(f"/proc/self/fd/{folder.fd}/.", mask)
        except OSError:
            self.close()
            raise

    def ended(self) -> bool:
        """Whether the sandbox has ended: what is written down by now is all there will be."""
        return self._ending.ended()

    def wait(self, masks: Iterable[tuple[int, int]] = ()) -> dict[int, int]:
        """Wait until something was written down, the sandbox ended, or one of the (descriptor,
        poll mask) pairs is ready: which ones."""
        poller = select.poll()
        poller.register(self._watch.fileno(), select.POLLIN)
        if self._ending.fd >= 0:
            poller.register(self._ending.fd, select.POLLIN)
        for fd, mask in masks:
            poller.register(fd, mask)
        ready = dict(poller.poll(None if self._ending.fd >= 0 else _POLL_S * 1000))
        self._watch.clear()
        return ready

    def close(self) -> None:
        """Wait no longer."""
        self._ending.close()
        self._watch.close()


def _poll(fds: Iterable[int], timeout_s: float | None) -> bool:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))

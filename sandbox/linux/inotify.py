"""inotify(7): a descriptor that becomes readable when something in a folder changes."""

from __future__ import annotations

import ctypes
import os

MODIFY, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK, IN_CLOEXEC have their values
_EVENTS_BYTES = 65536


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Watch:
    """Watches folders; `fileno` is readable when one of them changed, `clear` makes it wait again.

    Raises OSError, EMFILE when the user has too many watches (user.max_inotify_instances).
    """

    def __init__(self) -> None:
        self._fd = _checked(_libc().inotify_init1(_FLAGS))

    def add(self, path: str, mask: int) -> None:
        """Watch a folder or file for the events of `mask`. Raises OSError."""
        _checked(_libc().inotify_add_watch(self._fd, os.fsencode(path), mask))

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._fd

    def clear(self) -> None:
        """Forget the events that came."""
        try:
            while os.read(self._fd, _EVENTS_BYTES):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

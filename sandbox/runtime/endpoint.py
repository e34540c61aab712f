"""The caller's descriptors, read and written without ever blocking.

Owns how that is done. They are shared with other processes, so O_NONBLOCK is never set on
them: pipes and terminals are opened anew through /proc, which gives a file description of our
own; sockets are asked call by call; what can be neither is used in pieces small enough for
poll's promise to hold.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import stat

from sandbox.errors import SbxError
from sandbox.launcher.spawn import FIRST_PRIVATE

CHUNK_BYTES = 1 << 16
_TTY_CHUNK_BYTES = 256  # Linux calls a terminal writable while at least this much fits
_NEWLINE = 10
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.EBADF, errno.ENXIO, errno.ENOTCONN)


class Endpoint:
    """One of the caller's descriptors, for reading or writing without blocking.

    `fd` is our own; `polled` says whether readiness can and must be waited for.
    """

    def __init__(self, fd: int, *, writing: bool) -> None:
        mode = os.fstat(fd).st_mode
        self._socket: _socket.socket | None = None
        self._limit = CHUNK_BYTES
        self.unfinished = False  # whether the last byte written was no end of a line
        self.is_tty = stat.S_ISCHR(mode) and os.isatty(fd)
        self.polled = self.is_tty or not (stat.S_ISREG(mode) or stat.S_ISCHR(mode))
        if stat.S_ISSOCK(mode):
            self._socket = _socket.socket(fileno=_duplicate(fd))
            self.fd = self._socket.fileno()
            return
        if stat.S_ISFIFO(mode) or self.is_tty:
            own = _reopen(fd, os.O_WRONLY if writing else os.O_RDONLY)
            if own >= 0:
                self.fd = own
                return
            self._limit = _TTY_CHUNK_BYTES if self.is_tty else select.PIPE_BUF
        self.fd = _duplicate(fd)

    def write(self, data: memoryview) -> int:
        """Write what fits now; 0 when nothing does. Raises BrokenPipeError for a dead reader."""
        try:
            if self._socket:
                count = self._socket.send(data, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
            else:
                count = os.write(self.fd, data[: self._limit])
        except BlockingIOError:
            return 0
        except OSError as error:
            # On a plain file EIO is the disk's.
            if error.errno in _GONE and (self.polled or error.errno != errno.EIO):
                raise BrokenPipeError from error
            raise
        if count:
            self.unfinished = data[count - 1] != _NEWLINE
        return count

    def read(self) -> bytes | None:
        """Read what is there now; None when nothing is, b"" at the end."""
        try:
            if self._socket:
                return self._socket.recv(CHUNK_BYTES, _socket.MSG_DONTWAIT)
            return os.read(self.fd, CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in _GONE or error.errno == errno.EISDIR:
                return b""
            raise

    def close(self) -> None:
        """Close our descriptor; the caller's stays open."""
        if self._socket:
            self._socket.close()
        elif self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def open_endpoint(fd: int, *, writing: bool) -> Endpoint | None:
    """An Endpoint for the caller's `fd`, or None when it is closed or has no other side left."""
    try:
        return Endpoint(fd, writing=writing)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise SbxError(
            f"cannot use descriptor {fd}", cause=(error.strerror or "").lower()
        ) from error


def _duplicate(fd: int) -> int:
    """A copy of our own, above the numbers that callers give a meaning to."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a low RLIMIT_NOFILE: the launch has words for it
            raise
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _reopen(fd: int, mode: int) -> int:
    """Open the same pipe or terminal anew, not blocking; -1 when it cannot be opened."""
    flags = mode | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        opened = os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return -1
    try:
        return _duplicate(opened)
    finally:
        os.close(opened)

"""Where a run report goes: chosen and opened before the payload starts.

Owns the report file. The payload may be able to write in its folder: so the folder is opened
while no payload runs, and at the end the report is made in that very folder by a fresh name that
nobody else opened, then moved into place. A link that stands there is replaced, never followed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from sandbox.errors import SbxError, UsageError
from sandbox.launcher.spawn import FIRST_PRIVATE
from sandbox.runtime.report import write_patiently

_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/")


class Destination:
    """The place that `path` names, held by descriptors of our own until `close`.

    A regular file, or a name that is free, is written whole or not at all. /dev/stdout,
    /dev/stderr and /dev/fd/N are the caller's descriptors; another device or pipe is written to
    as it is. Raises UsageError naming the path.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._folder = self._stream = -1
        self._name = os.path.basename(path)
        try:
            self._open()
        except OSError as error:
            self.close()
            raise self._refusal((error.strerror or "").lower()) from error
        except UsageError:
            self.close()
            raise

    def _refusal(self, cause: str) -> UsageError:
        return UsageError(f"cannot write the report to {self._path}", cause=cause)

    def _open(self) -> None:
        if "\0" in self._path:
            raise self._refusal("it contains a NUL byte")
        number = _descriptor(self._path)
        if number >= 0:
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise self._refusal("it is open for reading only")
            self._stream = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE)
            return
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._folder = _private(os.open(os.path.dirname(self._path) or ".", flags))
        try:
            mode = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        if self._name in ("", ".", "..") or stat.S_ISDIR(mode):
            raise self._refusal("it is a directory")
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            self._open_as_it_is()
        elif not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise self._refusal("it is a socket or a block device")
        elif not os.access(".", os.W_OK | os.X_OK, dir_fd=self._folder):
            raise self._refusal("its folder cannot be written")

    def _open_as_it_is(self) -> None:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
        try:
            self._stream = _private(os.open(self._name, flags, dir_fd=self._folder))
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise self._refusal("nobody reads from it") from error
            raise

    def write(self, text: str) -> None:
        """Write the whole report. Raises SbxError naming the path."""
        data = memoryview(text.encode())
        try:
            if self._stream >= 0:
                if write_patiently(self._stream, data):
                    raise TimeoutError(errno.ETIMEDOUT, "its reader takes nothing")
            else:
                self._replace(data)
        except OSError as error:
            cause = (error.strerror or "").lower()
            raise SbxError(f"cannot write the report to {self._path}", cause=cause) from error

    def _replace(self, data: memoryview) -> None:
        temporary = f".{os.urandom(8).hex()}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o666, dir_fd=self._folder)
        try:
            try:
                while data:
                    data = data[os.write(fd, data) :]
            finally:
                os.close(fd)
            os.rename(temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:
            try:
                os.unlink(temporary, dir_fd=self._folder)
            except OSError:
                pass
            raise

    def close(self) -> None:
        """Close our descriptors."""
        for fd in (self._folder, self._stream):
            if fd >= 0:
                os.close(fd)
        self._folder = self._stream = -1


def _descriptor(path: str) -> int:
    """The number of the caller's descriptor that `path` means, -1 for a file."""
    for prefix in _DESCRIPTORS:
        number = path.removeprefix(prefix)
        if number != path and number.isascii() and number.isdigit() and len(number) < 10:
            return int(number)
    return _STREAMS.get(path, -1)


def _private(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE)
    finally:
        os.close(fd)

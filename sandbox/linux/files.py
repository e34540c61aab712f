"""Reads a file that the caller named, which may be anything: bounded, and never waiting forever."""

from __future__ import annotations

import os
import select
import stat

WAIT_S: float = 30


def read_whole(path: str, most: int) -> bytes:
    """The content of a regular file or a pipe of at most `most` bytes.

    Raises OSError of the kernel, and ValueError that says what is wrong: another kind of file, a
    bigger one, or a pipe out of which nothing comes for WAIT_S.
    """
    # O_NONBLOCK: opening a FIFO must not wait for somebody to write into it.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise ValueError("it is neither a regular file nor a pipe")
        # A FIFO that nobody has opened for writing yet reads as if it had ended; to poll(2) it has
        # not, other than a pipe whose writers are gone.
        _wait(fd)
        data = bytearray()
        while part := _read(fd, most + 1 - len(data)):
            data += part
            if len(data) > most:
                raise ValueError(f"it is bigger than {most} bytes")
        return bytes(data)
    finally:
        os.close(fd)


def _read(fd: int, most: int) -> bytes:
    while True:
        try:
            return os.read(fd, most)
        except BlockingIOError:
            _wait(fd)


def _wait(fd: int) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if not poller.poll(WAIT_S * 1000):
        raise ValueError(f"nothing came out of it for {WAIT_S} s")

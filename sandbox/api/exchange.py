"""Feeding and reading a command's pipes at the same time, so that neither side waits for ever."""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

_CHUNK_BYTES = 1 << 16


class Exchange:
    """`data` goes into `stdin`, which is closed after it; `got` holds what (stdout, stderr) gave
    so far, None for one that is no pipe."""

    def __init__(
        self, stdin: IO[Any] | None, stdout: IO[Any] | None, stderr: IO[Any] | None, data: bytes
    ) -> None:
        self.got = tuple(None if file is None else bytearray() for file in (stdout, stderr))
        self._data = memoryview(data)
        self._stdin = stdin
        self._files: dict[int, tuple[IO[Any], bytearray]] = {}
        for file, got in zip((stdout, stderr), self.got, strict=True):
            if file is not None and got is not None and not file.closed:
                self._files[file.fileno()] = (file, got)
        if stdin is not None and not stdin.closed:
            try:
                stdin.flush()
            except BrokenPipeError:
                self._data = memoryview(b"")

    def go_on(self, end: float | None) -> bool:
        """Move what can be moved until all is done, True, or time.monotonic() is `end`."""
        if not self._data:
            self._close_input()
        while self._files or self._stdin is not None:
            left = None if end is None else max(0.0, end - time.monotonic()) * 1000
            ready = self._poller().poll(left)
            if not ready:
                return False
            for fd, _ in ready:
                if fd in self._files:
                    self._read(fd)
                else:
                    self._write(fd)
        return True

    def _poller(self) -> select.poll:
        poller = select.poll()
        for fd in self._files:
            poller.register(fd, select.POLLIN)
        if self._stdin is not None:
            poller.register(self._stdin.fileno(), select.POLLOUT)
        return poller

    def _read(self, fd: int) -> None:
        file, got = self._files[fd]
        data = os.read(fd, _CHUNK_BYTES)
        got += data
        if not data:
            del self._files[fd]
            file.close()

    def _write(self, fd: int) -> None:
        try:
            # poll promises room for this much in a pipe.
            self._data = self._data[os.write(fd, self._data[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            self._data = memoryview(b"")
        if not self._data:
            self._close_input()

    def _close_input(self) -> None:
        if self._stdin is not None:
            try:
                self._stdin.close()
            except BrokenPipeError:
                pass
            self._stdin = None

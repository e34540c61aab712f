"""The output of a detached sandbox, as its launcher wrote it down.

Owns the reading side of the log's form (helpers/launcher/keeper.c writes it): entries in the
order in which the output came, in two files of which the older one goes when both are full.
"""

from __future__ import annotations

import os
import select
import struct
from collections import deque

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sandbox.linux.inotify import Watch
    from sandbox.runtime.keeper import Keeper
    from sandbox.runtime.registry import Folder

STDOUT, STDERR = 1, 2

_HEAD = struct.Struct("<QIB3x")
_POSITION = struct.Struct("<Q")
_CHUNK = 1 << 20


class Output(Record):
    """Some bytes of one stream (STDOUT, STDERR) and when they came, in seconds since the epoch.

    `lost`: how many bytes of the log were gone before the reader came to them.
    """

    at_s: float
    stream: int
    data: bytes
    lost: int = 0


class LogReader:
    """Reads the log from its beginning, or with `at_end` from its end, and on as it grows."""

    def __init__(self, folder: Folder, *, at_end: bool = False) -> None:
        self._folder = folder
        self._file = -1
        self._rest = b""
        self._next = self._end() if at_end else 0  # the place in the whole log of what comes next

    def close(self) -> None:
        """Close the file that is being read."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self) -> Iterator[Output]:
        """Everything that is there and was not read yet."""
        while True:
            if self._file < 0 and not self._open_next():
                return
            yield from self._entries()
            if not self._moved_on():
                return
            yield from self._entries()  # what came between the last read and the renaming
            self.close()

    def _open_next(self) -> bool:
        """Open the file that holds the next byte: the older one, unless it is behind us."""
        for name in ("log.1", "log"):
            try:
                fd = self._folder.open(name)
            except FileNotFoundError:
                continue
            start = _start(fd)
            behind = name == "log.1" and (start or 0) + os.fstat(fd).st_size <= self._next
            if start is None or behind:
                os.close(fd)
                continue
            self._file, self._rest = fd, b""
            os.lseek(fd, max(0, self._next - start), os.SEEK_SET)
            return True
        return False

    def _moved_on(self) -> bool:
        """Whether the file that is being read is the present one no longer."""
        try:
            now = os.stat("log", dir_fd=self._folder.fd)
        except FileNotFoundError:
            return False
        mine = os.fstat(self._file)
        return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)

    def _entries(self) -> Iterator[Output]:
        while data := os.read(self._file, _CHUNK):
            self._rest += data
            at = 0
            while len(self._rest) - at >= _HEAD.size:
                nanoseconds, length, stream = _HEAD.unpack_from(self._rest, at)
                end = at + _HEAD.size + length
                if end > len(self._rest):
                    break
                body = self._rest[at + _HEAD.size : end]
                lost = self._lost(stream, body)
                self._next += end - at
                if stream or lost:
                    yield Output(nanoseconds / 1e9, stream or STDERR, body * bool(stream), lost)
                at = end
            self._rest = self._rest[at:]

    def _lost(self, stream: int, body: bytes) -> int:
        """How many bytes are missing before this entry: the head of a file tells its place."""
        if stream or len(body) != _POSITION.size:
            return 0
        (place,) = _POSITION.unpack(body)
        lost = max(0, place - self._next)
        self._next = place
        return int(lost)

    def _end(self) -> int:
        for name in ("log", "log.1"):
            try:
                fd = self._folder.open(name)
            except FileNotFoundError:
                continue
            try:
                return (_start(fd) or 0) + os.fstat(fd).st_size
            finally:
                os.close(fd)
        return 0


def _start(fd: int) -> int | None:
    """How many bytes the files before this one held."""
    head = os.pread(fd, _HEAD.size + _POSITION.size, 0)
    if len(head) < _HEAD.size + _POSITION.size:
        return None
    return int(_POSITION.unpack_from(head, _HEAD.size)[0])


def _lines(data: bytes) -> list[bytes]:
    *whole, rest = data.split(b"\n")
    return [*(line + b"\n" for line in whole), rest]


def tail(outputs: Iterable[Output], lines: int) -> list[Output]:
    """The last `lines` lines of what came, by the order of their ends."""
    last: deque[Output] = deque(maxlen=lines)
    open_lines: dict[int, Output] = {}
    for output in outputs:
        for piece in filter(None, _lines(output.data)):
            before = open_lines.pop(output.stream, None)
            whole = output.replace(data=(before.data if before else b"") + piece, lost=0)
            if piece.endswith(b"\n"):
                last.append(whole)
            else:
                open_lines[output.stream] = whole
    last.extend(sorted(open_lines.values(), key=lambda output: output.at_s))
    return list(last)


def wait_for_more(watch: Watch, keeper: Keeper | None, *others: int) -> set[int]:
    """Wait until the log grows, the sandbox ends or one of `others` is readable: which ones."""
    poller = select.poll()
    wanted = [watch.fileno(), *others] + ([keeper.fileno()] if keeper else [])
    for fd in wanted:
        poller.register(fd, select.POLLIN)
    ready = {fd for fd, _ in poller.poll()}
    if watch.fileno() in ready:
        watch.clear()
    return ready

"""The output of a detached sandbox, as its launcher wrote it down.

Owns the reading side of the log's form (helpers/launcher/keeper.c writes it): entries in the
order in which the output came, in two files of which the older one goes when both are full.
"""

from __future__ import annotations

import os
import struct
from collections import deque

from sandbox.errors import StateError
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sandbox.runtime.registry import Folder

STDOUT, STDERR = 1, 2
ENTRY_MOST = 1 << 20  # bytes; the launcher writes less at once

_HEAD = struct.Struct("<QIB3x")
_POSITION = struct.Struct("<Q")
_FIRST_BYTES = _HEAD.size + _POSITION.size
_CHUNK = 1 << 20
_ATTEMPTS = 3


class Output(Record):
    """Some bytes of one stream (STDOUT, STDERR) and when they came, in ns since the epoch.

    `lost`: how many bytes of the log were gone before the reader came to them.
    """

    at_ns: int
    stream: int
    data: bytes
    lost: int = 0


class LogReader:
    """Reads the log from its beginning, or with `at_end` from its end, and on as it grows."""

    def __init__(self, folder: Folder, *, at_end: bool = False) -> None:
        self._folder = folder
        self._file = -1
        self._start = -1  # how many bytes of the log lie before the file that was opened last
        self._next = 0  # the place in the whole log of what comes next
        self._rest = b""
        found = self._try_open("log") if at_end else None
        if found:
            self._start, self._file = found
            self._next = self._start
            for _ in self._entries(self._end(), shown=False):
                pass

    def close(self) -> None:
        """Close the file that is being read."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self) -> Iterator[Output]:
        """Everything that is there by now and was not read yet, and hardly more of a flood.

        Raises StateError for a damaged log.
        """
        end = self._end()
        while self._file >= 0 or self._open_next():
            yield from self._entries(end)
            if self._next >= end or not self._moved_on():
                return
            yield from self._entries(end)  # what came between the last read and the renaming
            self.close()

    def _end(self) -> int:
        """The place in the whole log where it ends now."""
        found = self._try_open("log") or self._try_open("log.1")
        if found is None:
            return self._next
        try:
            return found[0] + os.fstat(found[1]).st_size
        finally:
            os.close(found[1])

    def _open_next(self) -> bool:
        """Open the file after the one that was read last, the older one if both come after it."""
        for _ in range(_ATTEMPTS):
            found = [pair for name in ("log.1", "log") if (pair := self._try_open(name))]
            later = sorted(pair for pair in found if pair[0] > self._start)
            chosen = later[0] if later else None
            # A file may have been renamed between the two looks: then it looks like a gap.
            again = chosen is not None and chosen is found[-1] and chosen[0] > self._next
            for pair in found:
                if pair is not chosen or again:
                    os.close(pair[1])
            if chosen and not again:
                self._start, self._file = chosen
                self._rest = b""
            if not again:
                return chosen is not None
        return False

    def _try_open(self, name: str) -> tuple[int, int] | None:
        """(bytes before it, descriptor) of a file, None when it is not there (yet)."""
        try:
            fd = self._folder.open(name)
        except FileNotFoundError:
            return None
        head = os.pread(fd, _FIRST_BYTES, 0)
        if len(head) < _FIRST_BYTES:
            os.close(fd)
            return None
        return int(_POSITION.unpack_from(head, _HEAD.size)[0]), fd

    def _moved_on(self) -> bool:
        """Whether the file that is being read is the present one no longer."""
        try:
            now = os.stat("log", dir_fd=self._folder.fd)
        except FileNotFoundError:
            return False
        mine = os.fstat(self._file)
        return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)

    def _entries(self, until: int, *, shown: bool = True) -> Iterator[Output]:
        while data := os.read(self._file, _CHUNK):
            whole, at = self._rest + data, 0
            while len(whole) - at >= _HEAD.size:
                at_ns, length, stream = _HEAD.unpack_from(whole, at)
                if stream > STDERR or length > ENTRY_MOST:
                    raise self._damaged()
                body, end = at + _HEAD.size, at + _HEAD.size + length
                if end > len(whole):
                    break
                if not stream:
                    lost = self._skip_to(whole[body:end])
                    if lost:
                        yield Output(at_ns, STDERR, b"", lost)
                elif shown:
                    yield Output(at_ns, stream, whole[body:end])
                self._next += end - at
                at = end
            self._rest = whole[at:]
            if self._next >= until:
                return

    def _damaged(self) -> StateError:
        return StateError(
            f"the log of sandbox {self._folder.name} is damaged",
            cause=f"no entry begins at byte {max(0, self._next - self._start)} of a file",
            hint="nothing after that can be read",
        )

    def _skip_to(self, body: bytes) -> int:
        """How many bytes are missing before a file: its first entry tells its place."""
        if len(body) != _POSITION.size:
            raise self._damaged()
        (place,) = _POSITION.unpack(body)
        lost = max(0, place - self._next)
        self._next = place
        return int(lost)


def lines_of(outputs: Iterable[Output]) -> Iterator[Output]:
    """The same output with each line of a stream in one piece, in the order of their ends.

    The time of a line is that of its first byte. What has no end yet comes last.
    """
    begun: dict[int, list[Output]] = {}
    for output in outputs:
        *ended, rest = output.data.split(b"\n")
        for line in ended:
            yield _joined(begun.pop(output.stream, []), output.replace(data=line + b"\n"))
        if rest:
            begun.setdefault(output.stream, []).append(output.replace(data=rest))
    for pieces in sorted(begun.values(), key=lambda pieces: pieces[0].at_ns):
        yield _joined(pieces[:-1], pieces[-1])


def _joined(before: list[Output], last: Output) -> Output:
    if not before:
        return last
    data = b"".join(piece.data for piece in before) + last.data
    return last.replace(data=data, at_ns=before[0].at_ns)


def tail(outputs: Iterable[Output], lines: int) -> list[Output]:
    """The last `lines` lines of what came."""
    return list(deque(lines_of(outputs), maxlen=lines))

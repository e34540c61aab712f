"""Streams between the sandbox's pipes and the caller, in order and bounded.

Owns how bytes move, and what happens when one side is slow, dead, or writes too much.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time

from sandbox.runtime.endpoint import CHUNK_BYTES, Endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sandbox.runtime.pty import Pty


_TERMINAL_BYTES = 1 << 20  # more than a pseudo-terminal can hold
_END_KEY_S = 0.1  # between two offers of the end-of-file key


class Budget:
    """How many bytes of output may pass; `limit` 0 means all. Both streams share one.

    `exceeded` tells that the limit was reached; `dropped` also counts what nobody took.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.passed = 0
        self.dropped = 0
        self.exceeded = False

    def take(self, count: int) -> int:
        """Count `count` bytes that came and return how many of them may go on."""
        allowed = min(count, self.limit - self.passed) if self.limit else count
        self.passed += allowed
        self.dropped += count - allowed
        self.exceeded = self.exceeded or allowed < count
        return allowed

    def lose(self, count: int) -> None:
        """Count `count` bytes that were taken as dropped after all."""
        self.passed -= count
        self.dropped += count


class Outflow:
    """Sandbox → caller: one stream's bytes, in order, within a Budget.

    The source is our end of a pipe or a pty master. The target is an Endpoint, a bytearray, a
    function for each piece, whose exceptions end the sandbox, or None for nowhere. With a slow
    target the source is left to fill, which slows the writer as a plain pipe would; a dead
    target closes the source, so the writer sees a broken pipe, and what it had written until
    then counts as dropped.
    """

    def __init__(
        self,
        source: int,
        target: Endpoint | bytearray | Callable[[bytes], object] | None,
        budget: Budget,
        *,
        pty: Pty | None = None,
    ) -> None:
        self.source = source
        self.open = True
        self._pty = pty
        self._target = target
        self._budget = budget
        self._pending = memoryview(b"")
        self._left: int | None = None  # bytes still to be read, once the writers are dead
        self.error: OSError | None = None

    @property
    def eager(self) -> bool:
        """Whether there is something to read without waiting: see `finish`."""
        return self.open and self._left is not None and not self._pending

    def interest(self) -> Iterator[tuple[int, int]]:
        """The (descriptor, poll mask) pairs that this stream waits for."""
        if not self.open:
            return
        target = self._target if isinstance(self._target, Endpoint) else None
        if not self._pending:
            yield self.source, select.POLLIN
        if target and target.polled:
            yield target.fd, select.POLLOUT if self._pending else 0

    def step(self, ready: Mapping[int, int]) -> None:
        """Move what can be moved, given the descriptors that poll found ready."""
        target = self._target if isinstance(self._target, Endpoint) else None
        if self.open and target and not self._pending and ready.get(target.fd, 0):
            self.abandon()  # its reader is gone: nothing else is reported without a wish
        if self.open and not self._pending and (self.source in ready or self.eager):
            self._fill()
        if self.open and self._pending and target:
            self._flush(target)

    def finish(self) -> None:
        """The writers are dead: read on to what is buffered now, no further.

        Somebody outside may have been handed the other end and keep it open for ever.
        """
        if not self.open:
            return
        try:
            self._left = fcntl.fcntl(self.source, fcntl.F_GETPIPE_SZ)
        except OSError:  # a pty master
            self._left = _TERMINAL_BYTES

    def abandon(self) -> None:
        """Count what is buffered now as dropped and close."""
        if self._left is None:
            self.finish()
        self._budget.lose(len(self._pending))
        self._pending = memoryview(b"")
        self._target = None
        before = self._budget.passed
        while self.eager:
            self._fill()
        self._budget.lose(self._budget.passed - before)
        self.end()

    def end(self) -> None:
        """Close our end of the stream."""
        if self.open:
            self.open = False
            self._pending = memoryview(b"")
            os.close(self.source)

    def _fill(self) -> None:
        want = CHUNK_BYTES if self._left is None else min(CHUNK_BYTES, self._left)
        try:
            data = os.read(self.source, want)
        except BlockingIOError:
            if self._left is not None:
                self.end()
            return
        except OSError as error:
            if error.errno != errno.EIO:  # a pty master whose other side is closed
                raise
            # Its end would hang up what still runs inside: it is kept until that is dead.
            if self._pty and self._left is None and self._pty.revive():
                return
            data = b""
        if not data:
            self.end()
            return
        if self._left is not None:
            self._left -= len(data)
        data = data[: self._budget.take(len(data))]
        if isinstance(self._target, bytearray):
            self._target += data
        elif isinstance(self._target, Endpoint):
            self._pending = memoryview(data)
        elif self._target and data:
            self._target(data)
        self._end_if_empty()

    def _flush(self, target: Endpoint) -> None:
        try:
            while self._pending:
                self._pending = self._pending[target.write(self._pending) :]
                if target.polled:
                    break
        except BrokenPipeError:
            self.abandon()
        except OSError as error:  # a full disk, for example: said once, then like a dead reader
            self.error = error
            self.abandon()
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._left == 0 and not self._pending:
            self.end()


class Inflow:
    """Caller → sandbox: its standard input, from an Endpoint or from bytes in memory.

    At most one chunk is read ahead of what the pipe takes. A payload that closes its input ends
    the flow; the end of the source closes the pipe. On a terminal it types the end-of-file key,
    and again whenever that was read: a program that discards what was typed before it started,
    or the next one of a script, finds the end as it would find that of a pipe.
    """

    def __init__(
        self, source: Endpoint | bytes | None, target: int, *, pty: Pty | None = None
    ) -> None:
        self.target = target
        self.open = True
        self._pty = pty  # its master, the target, belongs to the Outflow
        self._source = source if isinstance(source, Endpoint) else None
        self._pending = memoryview(source if isinstance(source, bytes) else b"")
        self._next_end = 0.0
        if not self._source and not self._pending:
            self._end_of_source()

    def interest(self) -> Iterator[tuple[int, int]]:
        """The (descriptor, poll mask) pairs that this stream waits for."""
        if not self.open:
            return
        source = self._source
        can_go_on = self._pending or (source and not source.polled)
        yield self.target, select.POLLOUT if can_go_on else 0
        if not self._pending and source and source.polled:
            yield source.fd, select.POLLIN

    def step(self, ready: Mapping[int, int]) -> None:
        """Move what can be moved, given the descriptors that poll found ready."""
        if not self.open:
            return
        if ready.get(self.target, 0) & select.POLLERR:
            self.end()
            return
        if self._next_end and not self._pending and time.monotonic() >= self._next_end:
            self._offer_end()
        source = self._source
        # A plain file is always ready: only the payload's side sets the pace.
        pace = source.fd if source and source.polled else self.target
        if source and not self._pending and pace in ready:
            self._fill(source)
        if self.open and self._pending:
            self._flush()

    def end(self) -> None:
        """Close the payload's standard input."""
        if self.open:
            self.open = False
            self._pending = memoryview(b"")
            self._next_end = 0.0
            if not self._pty:
                os.close(self.target)

    def _fill(self, source: Endpoint) -> None:
        data = source.read()
        if data:
            self._pending = memoryview(data)
        elif data is not None:
            self._source = None
            self._end_of_source()

    @property
    def wake_at(self) -> float:
        """When `step` is wanted whatever happens (time.monotonic()), 0.0 for never."""
        return self._next_end

    def _end_of_source(self) -> None:
        if self._pty:
            self._type_end(self._pty)
        else:
            self.end()

    def _type_end(self, pty: Pty) -> None:
        self._pending = memoryview(pty.end_key())
        self._next_end = time.monotonic() + _END_KEY_S

    def _offer_end(self) -> None:
        self._next_end = time.monotonic() + _END_KEY_S
        if self._pty and self._pty.is_read():
            self._type_end(self._pty)

    def _flush(self) -> None:
        try:
            count = os.write(self.target, self._pending[:CHUNK_BYTES])
        except BlockingIOError:
            return
        except OSError:  # closed by the payload, or a terminal that hung up
            self.end()
            return
        self._pending = self._pending[count:]
        if not self._pending and not self._source and not self._next_end:
            self._end_of_source()

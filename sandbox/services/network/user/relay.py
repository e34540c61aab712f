"""Bytes between two connected TCP sockets, with everything that TCP says beside them.

Data stay in the kernel: they are peeked at and sent on before they are taken, so nothing is kept
here for a receiver that is slow; a stream that fills the buffer moves through a pipe by splice.
The end of one direction (FIN) and the end of all (RST) are passed on. Urgent data are lost, as in
every relay.

Sockets are watched edge-triggered: a direction is tried until the kernel says "not now".
"""

from __future__ import annotations

import os
import struct
from fcntl import F_SETPIPE_SZ, fcntl
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from socket import MSG_PEEK, MSG_TRUNC, SHUT_WR, SO_LINGER, SOL_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from sandbox.services.network.user.account import Destination
    from sandbox.services.network.user.egress import Gate
    from sandbox.services.network.user.loop import Loop

EVENTS = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
BUFFER = 1 << 16
PIPE = 1 << 20
PIPES_KEPT = 2
BUDGET = 4 << 20
# With less than this in one go a direction goes back from splice to the buffer.
BULK = 1 << 15
SPLICE = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
ENDING = EPOLLRDHUP | EPOLLHUP | EPOLLERR
LINGER_NONE = struct.pack("ii", 1, 0)


class Pipes:
    """A bounded pool of big pipes.

    One user may have 64 MiB in pipes (pipe-user-pages-soft), after which new ones hold 8 KiB: a
    pipe that does not grow is given back, and few are kept that nobody uses.
    """

    def __init__(self, most: int) -> None:
        self._free: list[tuple[int, int]] = []
        self._left = most

    def take(self) -> tuple[int, int] | None:
        """An empty pipe of PIPE bytes, or None."""
        if self._free:
            return self._free.pop()
        if self._left <= 0:
            return None
        self._left -= 1
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._left += 1
            return None
        try:
            fcntl(pipe[1], F_SETPIPE_SZ, PIPE)
        except OSError:
            self.drop(pipe)
            return None
        return pipe

    def give(self, pipe: tuple[int, int]) -> None:
        """Take back an empty pipe."""
        if len(self._free) < PIPES_KEPT:
            self._free.append(pipe)
        else:
            self.drop(pipe)

    def drop(self, pipe: tuple[int, int]) -> None:
        """Close a pipe that may hold something."""
        os.close(pipe[0])
        os.close(pipe[1])
        self._left += 1


class Hub:
    """What the relays of one process share."""

    def __init__(self, loop: Loop, pipes: int, most: int) -> None:
        self.loop = loop
        self.pipes = Pipes(pipes)
        self.buffer = memoryview(bytearray(BUFFER))
        self.relays: set[Relay] = set()
        self._most = most

    def full(self) -> bool:
        """Whether there are as many connections as may be."""
        return len(self.relays) >= self._most


class _Way:
    """One direction: `readable` and `writable` are what the kernel said last.

    `exhaust`: read until the kernel says "nothing", as the end may stand behind the data.
    """

    __slots__ = ("bulk", "done", "exhaust", "inside", "moved", "pipe", "readable", "writable")

    def __init__(self) -> None:
        self.readable = False
        self.writable = True
        self.exhaust = False
        self.done = False
        self.bulk = False
        self.pipe: tuple[int, int] | None = None
        self.inside = 0
        self.moved = 0


class Relay:
    """One connection: `inner` is the socket towards the sandbox, `outer` that of the host.

    Both are non-blocking; each may be watched already, for EVENTS (its callback is then replaced).
    The relay closes them. `gate` sees what comes from the sandbox before any of it is sent on.
    `refused` is called when it says no.
    """

    def __init__(
        self,
        hub: Hub,
        inner: socket,
        outer: socket,
        counters: Destination,
        *,
        gate: Gate | None = None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._hub = hub
        self._inner = inner
        self._outer = outer
        self._counters = counters
        self._gate = gate
        self._refused = refused
        self._out = _Way()
        self._in = _Way()
        self._queued = False
        self._closed = False
        hub.relays.add(self)
        for sock, way, ready in (
            (inner, self._out, self._inner_ready),
            (outer, self._in, self._outer_ready),
        ):
            try:
                known = hub.loop.take_over(sock.fileno(), EVENTS, ready)
            except OSError:
                counters.failed += 1
                self.abort()
                return
            # Of one that is watched already the events up to now went elsewhere: try it.
            if known:
                way.readable = way.exhaust = True
        hub.loop.soon(self._continue)

    def abort(self) -> None:
        """Break the connection off: both ends are reset."""
        for sock in (self._inner, self._outer):
            try:
                sock.setsockopt(SOL_SOCKET, SO_LINGER, LINGER_NONE)
            except OSError:
                pass
        self._close()

    def _inner_ready(self, mask: int) -> None:
        self._ready(mask, self._out, self._in)

    def _outer_ready(self, mask: int) -> None:
        self._ready(mask, self._in, self._out)

    def _ready(self, mask: int, come: _Way, go: _Way) -> None:
        if mask & EPOLLOUT:
            go.writable = True
        if mask & (EPOLLIN | ENDING):
            come.readable = True
            if mask & ENDING:
                come.exhaust = True
                # After FIN, or while the other side takes nothing, a reset shows only here.
                if mask & EPOLLERR and (come.done or not come.writable):
                    self.abort()
                    return
            self._move(come)
        if mask & EPOLLOUT and not self._closed:
            self._move(go)

    def _continue(self) -> None:
        self._queued = False
        for way in (self._out, self._in):
            if not self._closed:
                self._move(way)

    def _move(self, way: _Way) -> None:
        """Move what can be moved in one direction, up to a budget."""
        if way.done or not way.writable or not (way.readable or way.inside):
            return
        source, target = self._ends(way)
        before = way.moved
        try:
            if way is self._out and self._gate is not None and not self._pass(way, source):
                return
            if way.bulk and way.pipe is None:
                way.pipe = self._hub.pipes.take()
                way.bulk = way.pipe is not None
            if way.pipe is not None:
                self._splice(way, source, target)
            else:
                self._copy(way, source, target)
        except OSError:
            # ECONNRESET, EPIPE, ETIMEDOUT: to the other side it is a reset.
            self.abort()
            return
        moved = way.moved - before
        if way is self._out:
            self._counters.sent += moved
        else:
            self._counters.received += moved
        if way.readable and way.writable and not way.done and not self._queued:
            self._queued = True
            self._hub.loop.soon(self._continue)
        if self._out.done and self._in.done:
            self._close()

    def _ends(self, way: _Way) -> tuple[socket, socket]:
        return (self._inner, self._outer) if way is self._out else (self._outer, self._inner)

    def _copy(self, way: _Way, source: socket, target: socket) -> None:
        buffer = self._hub.buffer
        try:
            size = source.recv_into(buffer, BUFFER, MSG_PEEK)
        except BlockingIOError:
            way.readable = way.exhaust = False
            return
        if not size:
            self._finish(way, target)
            return
        try:
            sent = target.send(buffer[:size])
        except BlockingIOError:
            way.writable = False
            return
        # MSG_TRUNC discards from a stream what was only peeked at.
        source.recv_into(buffer, sent, MSG_TRUNC)
        way.moved += sent
        if sent < size:
            way.writable = False
        elif size == BUFFER:
            way.bulk = True
        elif not way.exhaust:
            # Short and no end in sight: drained. What comes later is a new edge.
            way.readable = False

    def _splice(self, way: _Way, source: socket, target: socket) -> None:
        pipe = way.pipe
        assert pipe is not None  # noqa: S101
        inlet, outlet = source.fileno(), target.fileno()
        round_start = way.moved
        while way.moved - round_start < BUDGET:
            if not way.inside:
                try:
                    way.inside = os.splice(inlet, pipe[1], PIPE, flags=SPLICE)
                except BlockingIOError:
                    way.readable = False
                    break
                if not way.inside:
                    self._finish(way, target)
                    break
            try:
                gone = os.splice(pipe[0], outlet, way.inside, flags=SPLICE)
            except BlockingIOError:
                way.writable = False
                return
            way.inside -= gone
            way.moved += gone
        if not way.inside and (not way.readable or way.done):
            self._hub.pipes.give(pipe)
            way.pipe = None
            way.bulk = way.moved - round_start >= BULK

    def _pass(self, way: _Way, source: socket) -> bool:
        """Whether the gate lets the sandbox's first bytes through."""
        assert self._gate is not None  # noqa: S101
        try:
            size = source.recv_into(self._hub.buffer, BUFFER, MSG_PEEK)
        except BlockingIOError:
            way.readable = False
            return False
        verdict = self._gate(bytes(self._hub.buffer[:size])) if size else True
        if verdict is None and size < BUFFER and not way.exhaust:
            way.readable = False
            return False
        if not verdict:
            self._refused()
            self.abort()
            return False
        self._gate = None
        return True

    def _finish(self, way: _Way, target: socket) -> None:
        way.done = True
        way.readable = False
        target.shutdown(SHUT_WR)

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        hub = self._hub
        hub.relays.discard(self)
        for way in (self._out, self._in):
            way.done = True
            if way.pipe is not None:
                if way.inside:
                    hub.pipes.drop(way.pipe)
                else:
                    hub.pipes.give(way.pipe)
                way.pipe = None
        for sock in (self._inner, self._outer):
            hub.loop.forget(sock.fileno())
            sock.close()

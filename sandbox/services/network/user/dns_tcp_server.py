"""DNS over TCP: a sandbox's connection to its name server, cut into messages (RFC 7766)."""

from __future__ import annotations

from select import EPOLLIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

    from sandbox.services.network.user.loop import Loop
    from sandbox.services.network.user.setting import Resolver

IDLE_S = 20.0
CONNECTIONS = 64
OUTSTANDING = 32
READ = 4096


class TcpServer:
    """The connections to the name server, each alone bounded and all together too."""

    def __init__(self, loop: Loop, resolver: Resolver) -> None:
        self.loop = loop
        self.resolver = resolver
        self.open: set[_Connection] = set()

    def serve(self, sock: socket) -> None:
        """Answer on an accepted, non-blocking connection, and close it."""
        if len(self.open) >= CONNECTIONS:
            sock.close()
        else:
            try:
                self.open.add(_Connection(self, sock))
            except OSError:
                sock.close()

    def close(self, most: int = CONNECTIONS) -> None:
        """Give up connections, whatever they wait for, `most` of them."""
        for connection in tuple(self.open)[:most]:
            connection.close()


class _Connection:
    """One connection; answers are sent in the order in which they come."""

    def __init__(self, server: TcpServer, sock: socket) -> None:
        self._server = server
        self._sock: socket | None = sock
        self._data = bytearray()
        self._waiting = 0
        self._ended = False
        server.loop.watch(sock.fileno(), EPOLLIN, self._ready)
        self._timer = server.loop.later(IDLE_S, self.close)

    def _ready(self, _mask: int) -> None:
        if self._sock is None:
            return
        try:
            part = self._sock.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not part:
            self._ended = True
            self._server.loop.forget(self._sock.fileno())
            if not self._waiting:
                self.close()
            return
        self._data += part
        self._timer.cancel()
        self._timer = self._server.loop.later(IDLE_S, self.close)
        while self._sock is not None and len(self._data) >= 2:
            end = 2 + (self._data[0] << 8 | self._data[1])
            if len(self._data) < end:
                break
            message = bytes(self._data[2:end])
            del self._data[:end]
            if self._waiting >= OUTSTANDING:
                self.close()
                return
            self._waiting += 1
            self._server.resolver.ask(message, self._answer, stream=True)

    def _answer(self, message: bytes) -> None:
        if self._sock is None:
            return
        self._waiting -= 1
        whole = len(message).to_bytes(2, "big") + message
        try:
            # Who asks much and reads nothing is cut off: nothing is kept for it.
            sent = self._sock.send(whole)
        except OSError:
            sent = 0
        if sent < len(whole) or (self._ended and not self._waiting):
            self.close()

    def close(self) -> None:
        """Forget it; again is harmless."""
        self._timer.cancel()
        if self._sock is not None:
            self._server.loop.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None
            self._server.open.discard(self)

"""A server for PostgreSQL's own client: it lets everybody in and answers each query with 42."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Self

_SSL, _GSS = 80877103, 80877104


class PostgresServer:
    """Serves one client at a time on 127.0.0.1. `asked`: the queries."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked: list[str] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as stream:
                self._talk(peer, stream.read)

    def _talk(self, peer: socket.socket, read: object) -> None:
        assert callable(read)
        while True:
            size, code = struct.unpack("!II", read(8))
            read(size - 8)
            if code not in {_SSL, _GSS}:
                break
            peer.sendall(b"N")
        peer.sendall(_message(b"R", struct.pack("!I", 0)) + _message(b"Z", b"I"))
        while (kind := read(1)) == b"Q":
            (size,) = struct.unpack("!I", read(4))
            self.asked.append(read(size - 4).rstrip(b"\0").decode())
            column = b"n\0" + struct.pack("!IHIHIH", 0, 0, 23, 4, 0xFFFFFFFF, 0)
            row = struct.pack("!HI", 1, 2) + b"42"
            peer.sendall(
                _message(b"T", struct.pack("!H", 1) + column)
                + _message(b"D", row)
                + _message(b"C", b"SELECT 1\0")
                + _message(b"Z", b"I")
            )
        assert kind in {b"X", b""}


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body

"""DNS over TCP to a name server of the host: one question, connect, send, receive, give back."""

from __future__ import annotations

import errno
import os
import socket
from select import EPOLLIN, EPOLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.services.network.user.loop import Loop


class TcpExchange:
    """Calls `done` once with the answer, or None; never before the constructor returned.

    Raises OSError when no connection can be begun. Who made it closes it, also before `done`.
    """

    def __init__(
        self,
        loop: Loop,
        family: int,
        address: tuple[Any, ...],
        message: bytes,
        done: Callable[[bytes | None], None],
    ) -> None:
        self._loop = loop
        self._done = done
        self._left = len(message).to_bytes(2, "big") + message
        self._got = bytearray()
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        self._socket = socket.socket(family, kind)
        begun = self._socket.connect_ex(address)
        if begun not in {0, errno.EINPROGRESS}:
            self._socket.close()
            raise OSError(begun, os.strerror(begun))
        try:
            loop.watch(self._socket.fileno(), EPOLLOUT, self._ready)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """End it; `done` will not be called."""
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()

    def _ready(self, _events: int) -> None:
        if self._socket.fileno() < 0:
            return
        try:
            if self._left:
                self._left = self._left[self._socket.send(self._left) :]
                if not self._left:
                    self._loop.change(self._socket.fileno(), EPOLLIN)
                return
            chunk = self._socket.recv(65535)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self._got += chunk
        whole = 2 + int.from_bytes(self._got[:2], "big")
        if len(self._got) >= 2 and len(self._got) >= whole:
            self._done(bytes(self._got[2:whole]))
        elif not chunk:
            self._done(None)

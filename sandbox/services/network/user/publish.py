"""Ports of the host that lead into a sandbox.

A connection into the sandbox needs a socket of its network namespace, and this process is not in
it. New ones are bred: a seed, which the launcher made in there, connects to the transparent
listener, which is in there too; the accepted socket is then disconnected (connect(2) to
AF_UNSPEC), and is a fresh socket of the namespace. It has inherited IP_TRANSPARENT, so it can be
bound to the address of the client: the sandbox's server sees who is there. Its answers, like all
TCP that leaves the sandbox, are turned back by the mark to this very socket.

Clients whose address means something else inside (loopback, link-local) come from the gateway's.
"""

from __future__ import annotations

import ctypes
import errno
import os
from select import EPOLLERR, EPOLLIN, EPOLLOUT
from socket import SO_REUSEADDR, SOL_SOCKET, inet_ntop, inet_pton, socket

from sandbox.services.network.user.relay import EVENTS, Relay
from sandbox.services.network.user.tcp import accept_some, reset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.services.network.user.account import Destination
    from sandbox.services.network.user.relay import Hub
    from sandbox.services.network.user.setting import Setting
    from sandbox.services.network.user.tcp import Tcp

POOL = 32
BREED_S = 2.0
WAITING = 256

_libc = ctypes.CDLL(None, use_errno=True)
_UNSPEC = bytes(16)


def disconnect(sock: socket) -> None:
    """Make a TCP socket as if it had never been connected: connect(2) to AF_UNSPEC."""
    if _libc.connect(sock.fileno(), _UNSPEC, len(_UNSPEC)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "connect to AF_UNSPEC")


class Nursery:
    """Breeds sockets of the sandbox's namespace for one address family, some in advance."""

    def __init__(self, setting: Setting, tcp: Tcp, seed: socket, listener: socket) -> None:
        self._loop = setting.loop
        self._tcp = tcp
        self._seed = seed
        self._listener = listener
        self._place = listener.getsockname()[:2]
        self._pool: list[socket] = []
        self._wanted: list[Callable[[socket], None]] = []
        self._breeding: tuple[str, int] | None = None
        seed.setblocking(False)

    def take(self, give: Callable[[socket], None]) -> bool:
        """Hand a fresh socket to `give`, now or soon; False when too many wait already."""
        if self._pool:
            give(self._pool.pop())
        elif len(self._wanted) < WAITING:
            self._wanted.append(give)
        else:
            return False
        self.breed()
        return True

    def breed(self) -> None:
        """Have POOL sockets in stock."""
        while self._breeding is None and (self._wanted or len(self._pool) < POOL):
            if not self._breed():
                return

    def _breed(self) -> bool:
        failure = self._seed.connect_ex(self._place)
        if failure not in (0, errno.EINPROGRESS):
            # The namespace's loopback is down or its ports are used up: the sandbox's own doing.
            self._loop.later(BREED_S, self.breed)
            return False
        self._breeding = own = self._seed.getsockname()[:2]
        self._tcp.expected[own] = self._bred
        self._loop.later(BREED_S, lambda: self._give_up(own))
        # On loopback the connection stands by now.
        self._tcp.accept(self._listener)
        return True

    def _give_up(self, own: tuple[str, int]) -> None:
        """The listener is flooded, or something ate the handshake."""
        if self._breeding == own and self._tcp.expected.pop(own, None) is not None:
            self._breeding = None
            disconnect(self._seed)
            self.breed()

    def _bred(self, sock: socket) -> None:
        self._breeding = None
        disconnect(sock)
        disconnect(self._seed)
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        if self._wanted:
            self._wanted.pop(0)(sock)
        else:
            self._pool.append(sock)


class Published:
    """The published TCP ports."""

    def __init__(self, setting: Setting, hub: Hub, nurseries: dict[int, Nursery]) -> None:
        self._setting = setting
        self._hub = hub
        self._nurseries = nurseries
        self._coming = 0

    def publish(self, listener: socket, port: int) -> None:
        """Bring connections of a listening socket of the host to `port` of the sandbox."""
        loop, account = self._setting.loop, self._setting.account
        nursery = self._nurseries[listener.family]
        nursery.breed()
        listener.setblocking(False)
        own = listener.getsockname()
        host = inet_pton(listener.family, own[0])

        def take(outer: socket, peer: Any) -> None:
            visit = _Visit(outer, peer, port, account.accepted("tcp", host, own[1]))
            room = self._coming < self._setting.limits.pending and not self._hub.full()
            if room and nursery.take(lambda inner: self._enter(inner, visit)):
                self._coming += 1
            else:
                account.dropped("connections")
                reset(outer)

        loop.watch(listener.fileno(), EPOLLIN, lambda _: accept_some(loop, listener, take))

    def _enter(self, inner: socket, visit: _Visit) -> None:
        """A socket of the namespace has come for a client: connect it."""
        site, family = self._setting.site, inner.family
        source = site.seen_as(inet_pton(family, visit.peer[0].partition("%")[0]))
        place = inet_ntop(family, site.sandbox(source)), visit.port
        try:
            try:
                inner.bind((inet_ntop(family, source), visit.peer[1]))
            except OSError:
                # Its port is in use under this address: another one then.
                inner.bind((inet_ntop(family, source), 0))
            failure = inner.connect_ex(place)
        except OSError as error:
            failure = error.errno or errno.EIO
        if failure not in (0, errno.EINPROGRESS):
            self._fail(inner, visit)
            return
        try:
            self._setting.loop.watch(
                inner.fileno(), EVENTS, lambda mask: self._inner_ready(inner, visit, mask)
            )
        except OSError:
            self._fail(inner, visit)

    def _inner_ready(self, inner: socket, visit: _Visit, mask: int) -> None:
        if mask & EPOLLERR:
            self._setting.loop.forget(inner.fileno())
            self._fail(inner, visit)
        elif mask & EPOLLOUT:
            self._coming -= 1
            Relay(self._hub, inner, visit.outer, visit.counters)

    def _fail(self, inner: socket, visit: _Visit) -> None:
        """Nobody listens inside: to the client the connection ends with a reset."""
        self._coming -= 1
        visit.counters.failed += 1
        inner.close()
        reset(visit.outer)


class _Visit:
    """A client of a published port, on its way in."""

    __slots__ = ("counters", "outer", "peer", "port")

    def __init__(self, outer: socket, peer: Any, port: int, counters: Destination) -> None:
        self.outer = outer
        self.peer = peer
        self.port = port
        self.counters = counters

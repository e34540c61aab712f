"""The process behind a network's gateway, port 53: names of its sandboxes, and all others.

What sandboxes are called it reads from the leases. Other names go to the host's own name servers,
except those without a dot, which belong to the network. It ends when nobody is on the network.
"""

from __future__ import annotations

import fcntl
import os
import socket
from select import EPOLLIN

from sandbox.services.network.bridge.definitions import BASE, Definition, load
from sandbox.services.network.bridge.leases import living
from sandbox.services.network.bridge.names import LOCK
from sandbox.services.network.user.account import Account
from sandbox.services.network.user.dns import Resolver
from sandbox.services.network.user.egress import Verdict
from sandbox.services.network.user.loop import Loop
from sandbox.services.network.user.upstreams import host_upstreams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

IDLE_S = 10.0
_UDP_BYTES = 4096
_CLIENTS_MAX = 128
_A_ROUND = 64


def _with(call: Callable[[T], None], subject: T) -> Callable[[int], None]:
    return lambda _events: call(subject)


class Everything:
    """Lets every name be asked for but those that only a network has."""

    def judge_name(self, name: str) -> Verdict:
        """A name without a dot is a sandbox that is not there."""
        allowed = "." in name.rstrip(".")
        return Verdict(allowed, "public" if allowed else "local")

    def learn(self, name: str, addresses: tuple[bytes, ...], ttl: float) -> None:
        """Nothing depends on what a name leads to."""


class Directory:
    """The names on a network, read again when somebody came or went."""

    def __init__(self, network: Definition) -> None:
        self._network = network
        self._seen = -1
        self._known: dict[str, tuple[bytes, ...]] = {}

    def look_up(self, name: str) -> tuple[bytes, ...] | None:
        """All addresses of who is called so."""
        self._read()
        return self._known.get(name.lower().rstrip("."))

    def _read(self) -> None:
        seen = os.stat(f"{self._network.folder}/leases").st_mtime_ns
        if seen == self._seen:
            return
        found: dict[str, tuple[bytes, ...]] = {}
        for lease in living(self._network):
            six = lease.address6
            addresses = (lease.address4, *((six,) if six else ()))
            for name in dict.fromkeys(each.lower() for each in lease.names):
                found[name] = (*found.get(name, ()), *addresses)
        self._known, self._seen = found, seen


class _Client:
    """One connection: messages with their length before them, answered in any order."""

    def __init__(self, loop: Loop, talk: socket.socket, gone: Callable[[], None]) -> None:
        self.talk = talk
        self.loop = loop
        self.gone = gone
        self.input = bytearray()

    def close(self) -> None:
        """Forget it; again is harmless."""
        if self.talk.fileno() >= 0:
            self.loop.forget(self.talk.fileno())
            self.talk.close()
            self.gone()

    def answer(self, message: bytes) -> None:
        """Send a whole answer or give the client up: it has to read what it asked for."""
        data = len(message).to_bytes(2, "big") + message
        try:
            if self.talk.fileno() >= 0 and self.talk.send(data) != len(data):
                self.close()
        except OSError:
            self.close()


class Server:
    """Serves the sockets until nobody is on the network."""

    def __init__(self, network: Definition, sockets: list[socket.socket]) -> None:
        self._network = network
        self._loop = Loop()
        self._clients = 0
        directory = Directory(network)
        self._resolver = Resolver(
            self._loop, Everything(), host_upstreams(), Account(), known=directory.look_up
        )
        for each in sockets:
            serve = self._datagrams if each.type == socket.SOCK_DGRAM else self._connections
            self._loop.watch(each.fileno(), EPOLLIN, _with(serve, each))
        self._gate = os.open(f"{BASE}/.lock", os.O_RDWR | os.O_CLOEXEC)

    def run(self) -> None:
        """Serve."""
        self._loop.later(IDLE_S, self._look)
        self._loop.run()

    def _look(self) -> None:
        """End when nobody needs us; whoever takes an address asks for us under the same lock."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        if not living(self._network):
            os._exit(0)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._loop.later(IDLE_S, self._look)

    def _datagrams(self, server: socket.socket) -> None:
        for _ in range(_A_ROUND):
            try:
                message, client = server.recvfrom(_UDP_BYTES)
            except OSError:
                return

            def answer(data: bytes, to: Any = client) -> None:
                try:
                    server.sendto(data, to)
                except OSError:
                    return

            self._resolver.ask(message, answer)

    def _connections(self, server: socket.socket) -> None:
        for _ in range(_A_ROUND):
            try:
                talk, _ = server.accept()
            except OSError:
                return
            if self._clients >= _CLIENTS_MAX:
                talk.close()
                continue
            talk.setblocking(False)
            self._clients += 1
            client = _Client(self._loop, talk, self._gone)
            self._loop.watch(talk.fileno(), EPOLLIN, _with(self._read, client))
            self._loop.later(IDLE_S, client.close)

    def _gone(self) -> None:
        self._clients -= 1

    def _read(self, client: _Client) -> None:
        try:
            data = client.talk.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            client.close()
            return
        client.input += data
        while len(client.input) >= 2:
            end = 2 + int.from_bytes(client.input[:2], "big")
            if len(client.input) < end:
                return
            message = bytes(client.input[2:end])
            del client.input[:end]
            self._resolver.ask(message, client.answer, stream=True)


def main(name: str) -> None:
    """Serve the network of this name on the descriptors behind LOCK."""
    network = load(name)
    if network is None:
        return
    count = 2 * len(network.gateways)
    sockets = [socket.socket(fileno=fd) for fd in range(LOCK + 1, LOCK + 1 + count)]
    for fd in range(LOCK, LOCK + 1 + count):
        os.set_inheritable(fd, False)
    Server(network, sockets).run()

"""The process behind a network's gateway, port 53: names of its sandboxes, and all others.

What sandboxes are called it reads from the leases. Other names go to the host's own name servers,
except those without a dot, which belong to the network. It sees to what dead sandboxes have left,
and ends when nobody is on the network.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 (getaddrinfo needs it, and nothing can be loaded later)
import os
import resource
import socket
import time
from select import EPOLLIN

from sandbox.errors import SbxError
from sandbox.policy.egress import Rule, parse_rules, parse_upstream
from sandbox.services.network.bridge import upkeep
from sandbox.services.network.bridge.confine import confine
from sandbox.services.network.bridge.definitions import Definition, Gate, load
from sandbox.services.network.bridge.egress import Learned, has_names
from sandbox.services.network.bridge.leases import Lease, learn, living, retired
from sandbox.services.network.bridge.names import LOCK
from sandbox.services.network.bridge.subnets import parse_address
from sandbox.services.network.user.account import Account
from sandbox.services.network.user.dns import Resolver
from sandbox.services.network.user.dns_tcp_server import TcpServer
from sandbox.services.network.user.egress import Egress, Verdict
from sandbox.services.network.user.loop import Loop
from sandbox.services.network.user.upstreams import host_upstreams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from sandbox.services.network.user.dns import Known

    T = TypeVar("T")

IDLE_S = 10.0
TTL_MIN_S = 60.0
GRACE_S = 60.0
LEARNED_MAX = 256
_UDP_BYTES = 4096
_CONNECTIONS_MAX = 512
_A_ROUND = 64


def _with(call: Callable[[T], None], subject: T) -> Callable[[int], None]:
    return lambda _events: call(subject)


class Judge:
    """What one sandbox may ask for, and where the addresses go that its names lead to."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._rules = parse_rules(lease.allow, lease.deny)
        self._egress = Egress(self._rules, {}, lambda _address: False)
        self._named = has_names((*lease.allow, *lease.deny))

    def judge_name(self, name: str) -> Verdict:
        """A name without a dot is a sandbox that is not there."""
        if "." not in name.rstrip("."):
            return Verdict(False, "local")
        return self._egress.judge_name(name)

    def learn(self, name: str, addresses: tuple[bytes, ...], ttl: float) -> None:
        """Have the firewall know them before the sandbox does."""
        if not self._named:
            return
        now = time.time()
        until_s = now + max(ttl, TTL_MIN_S) + GRACE_S
        rules = [
            rule.text for rule in (*self._rules.allow, *self._rules.deny) if _is_of(name, rule)
        ]
        with Gate():
            # Somebody else may have the address by now; what is learned is this file's alone.
            lease = next(
                (each for each in living(self._lease.network) if _same(each, self._lease)), None
            )
            if lease is None:
                return
            known = {(e.rule, e.address): e for e in lease.learned if e.until_s > now}
            fresh = {(r, a): Learned(r, a, until_s) for r in rules for a in addresses[:LEARNED_MAX]}
            good = {key for key, each in known.items() if each.until_s > now + ttl}
            if fresh.keys() <= good:
                return
            merged = list({**known, **fresh}.values())[-LEARNED_MAX:]
            try:
                learn(lease, merged)
                upkeep.refresh()
            except SbxError:  # the name is known all the same; its address stays refused
                return


def _same(one: Lease, other: Lease) -> bool:
    return one.replace(learned=()) == other.replace(learned=())


def _is_of(name: str, rule: Rule) -> bool:
    """Whether this is a rule about this name."""
    name = name.lower().rstrip(".")
    if rule.kind == "below":
        return name.endswith(f".{rule.name}")
    return rule.kind == "name" and name == rule.name


class Directory:
    """The names on a network, read again when somebody came or went."""

    def __init__(self, network: Definition) -> None:
        self._network = network
        self._seen = -1
        self._known: dict[str, tuple[bytes, ...]] = {}
        self._leases: dict[bytes, Lease] = {}

    def who(self, address: bytes) -> Lease | None:
        """The lease of an address."""
        self._read()
        return self._leases.get(address)

    def look_up(self, name: str) -> tuple[bytes, ...] | None:
        """All addresses of who is called so."""
        self._read()
        return self._known.get(name.lower().rstrip("."))

    def _read(self) -> None:
        seen = os.stat(f"{self._network.folder}/leases").st_mtime_ns
        if seen == self._seen:
            return
        found: dict[str, tuple[bytes, ...]] = {}
        leases: dict[bytes, Lease] = {}
        for lease in living(self._network):
            six = lease.address6
            addresses = (lease.address4, *((six,) if six else ()))
            leases |= dict.fromkeys(addresses, lease)
            for name in dict.fromkeys(each.lower() for each in lease.names):
                found[name] = (*found.get(name, ()), *addresses)
        self._known, self._leases, self._seen = found, leases, seen


class _Asker:
    """Who has one lease: its rules, its answers, and connections that nobody else can use up."""

    def __init__(
        self, loop: Loop, lease: Lease, upstreams: tuple[tuple[str, int], ...], known: Known
    ) -> None:
        self.lease = lease
        self.resolver = Resolver(loop, Judge(lease), upstreams, Account(), known=known)
        self.tcp = TcpServer(loop, self.resolver)

    def close(self) -> None:
        """The lease is somebody else's."""
        self.tcp.close()
        self.resolver.close()


class Server:
    """Serves the sockets until nobody is on the network."""

    def __init__(self, network: Definition, sockets: list[socket.socket]) -> None:
        self._network = network
        self._loop = Loop()
        self._directory = Directory(network)
        self._askers: dict[bytes, _Asker] = {}  # by their IPv4 address
        self._upstreams = host_upstreams()
        for each in sockets:
            serve = self._datagrams if each.type == socket.SOCK_DGRAM else self._connections
            self._loop.watch(each.fileno(), EPOLLIN, _with(serve, each))

    def run(self) -> None:
        """Serve."""
        self._loop.later(IDLE_S, self._look)
        self._loop.run()

    def _look(self) -> None:
        """Take back what others left, and end when nobody needs us: whoever takes an address asks
        for us under the same lock."""
        with Gate():
            try:
                upkeep.sweep(self._network)
            except SbxError:  # whoever comes next tries again, and says so
                pass
            if not living(self._network) and not retired(self._network):
                os._exit(0)
        self._loop.later(IDLE_S, self._look)

    def _asker(self, client: str) -> _Asker | None:
        """Who asks; nobody else is answered."""
        lease = self._directory.who(parse_address(client.partition("%")[0]))
        if lease is None:
            return None
        asker = self._askers.get(lease.address4)
        if asker is None or not _same(asker.lease, lease):
            if asker:
                asker.close()
            upstreams = tuple(map(parse_upstream, lease.dns)) or self._upstreams
            asker = _Asker(self._loop, lease, upstreams, self._directory.look_up)
            self._askers[lease.address4] = asker
        return asker

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

            asker = self._asker(client[0])
            if asker:
                asker.resolver.ask(message, answer)

    def _connections(self, server: socket.socket) -> None:
        for _ in range(_A_ROUND):
            try:
                talk, who = server.accept()
            except OSError:
                return
            talk.setblocking(False)
            asker = self._asker(who[0])
            if asker is None:
                talk.close()
                continue
            self._make_room()
            asker.tcp.serve(talk)

    def _make_room(self) -> None:
        """Where all are many, who has most loses one."""
        found = [asker.tcp for asker in self._askers.values()]
        if sum(len(server.open) for server in found) >= _CONNECTIONS_MAX:
            max(found, key=lambda server: len(server.open)).close(1)


def main(name: str) -> None:
    """Serve the network of this name on the descriptors behind LOCK."""
    network = load(name)
    if network is None:
        return
    count = 2 * len(network.gateways)
    sockets = [socket.socket(fileno=fd) for fd in range(LOCK + 1, LOCK + 1 + count)]
    for fd in range(LOCK, LOCK + 1 + count):
        os.set_inheritable(fd, False)
    server = Server(network, sockets)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # each sandbox takes its share
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    confine()
    server.run()

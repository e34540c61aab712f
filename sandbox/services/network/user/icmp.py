"""Echo requests: answered for the gateway, carried by ping sockets of the host for others.

Ping sockets are the kernel's for normal users, where net.ipv4.ping_group_range allows them; where
it does not, a request is refused at once, as is everything else that is not TCP or UDP.
"""

from __future__ import annotations

import errno
from select import EPOLLIN
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    inet_ntop,
    socket,
)

from sandbox.services.network.user import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.services.network.user.account import Destination
    from sandbox.services.network.user.packets import Parsed
    from sandbox.services.network.user.setting import Setting
    from sandbox.services.network.user.tun import Tun

REQUEST4, REQUEST6, REPLY4, REPLY6 = 8, 128, 0, 129
FLOWS = 128
IDLE_S = 30.0
SWEEP_S = 5.0
REPLIES_A_ROUND = 16


class _Echo:
    """The requests of one identifier to one target."""

    __slots__ = ("counters", "identifier", "seen", "sock", "source", "target")

    def __init__(
        self, sock: socket, counters: Destination, source: bytes, target: bytes, identifier: bytes
    ) -> None:
        self.sock = sock
        self.counters = counters
        self.source = source
        self.target = target
        self.identifier = identifier
        self.seen = 0.0


class Icmp:
    """The echo flows of one sandbox, and the refusal of protocols that are not carried."""

    def __init__(self, setting: Setting, tun: Tun) -> None:
        self._setting = setting
        self._loop = setting.loop
        self._tun = tun
        self._flows: dict[bytes, _Echo] = {}
        self._buffer = memoryview(bytearray(1 << 16))
        tun.take[packets.ICMP] = self.take
        tun.take[packets.ICMPV6] = self.take
        tun.other = self.refuse_protocol
        self._loop.later(SWEEP_S, self._sweep)

    def take(self, packet: memoryview, parsed: Parsed) -> None:
        """An ICMP message came out of the sandbox; all but echo requests is nobody's."""
        protocol, source, target, start, end = parsed
        six = len(source) == 16
        request = REQUEST6 if six else REQUEST4
        if end - start < 8 or packet[start] != request or packets.is_multicast(target):
            return
        if protocol != (packets.ICMPV6 if six else packets.ICMP):
            return
        site = self._setting.site
        identifier = bytes(packet[start + 4 : start + 6])
        if target in (site.gateway4, site.gateway6, site.dns4, site.dns6):
            rest = packet[start + 6 : end]
            self._tun.send(packets.echo_reply(target, source, identifier, rest))
            return
        flow = self._flows.get(source + target + identifier)
        if flow is None:
            flow = self._open(packet[:end], source, target, identifier)
            if flow is None:
                return
        flow.seen = self._loop.now()
        try:
            # The kernel puts its own identifier and checksum in.
            flow.counters.sent += flow.sock.send(packet[start:end])
        except BlockingIOError:
            return
        except OSError as error:
            self._refuse(packet[:end], target, packets.kinds_of(error.errno))

    def refuse_protocol(self, packet: memoryview, parsed: Parsed) -> None:
        """A protocol that is not carried."""
        protocol, _, target, _, end = parsed
        if not packets.is_multicast(target):
            self._setting.account.denied(f"ip-{protocol}", target, 0, "only tcp, udp and icmp")
            self._refuse(packet[:end], target, packets.PROHIBITED)

    def _open(
        self, packet: memoryview, source: bytes, target: bytes, identifier: bytes
    ) -> _Echo | None:
        setting = self._setting
        verdict = setting.egress.judge(target, 0, "icmp")
        if not verdict.allowed:
            setting.account.denied("icmp", target, 0, verdict.rule, verdict.name)
            self._refuse(packet, target, packets.PROHIBITED)
            return None
        if not setting.limits.flow_rate.take(self._loop.now()):
            setting.account.dropped("flow rate")
            return None
        if len(self._flows) >= FLOWS:
            self._close(min(self._flows, key=lambda old: self._flows[old].seen))
        six = len(verdict.target) == 16
        family, protocol = (AF_INET6, IPPROTO_ICMPV6) if six else (AF_INET, IPPROTO_ICMP)
        counters = setting.account.opened("icmp", target, 0, verdict.name)
        try:
            sock = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol)
        except OSError:
            # EACCES: net.ipv4.ping_group_range does not have our group.
            counters.failed += 1
            self._refuse(packet, target, packets.PROHIBITED)
            return None
        try:
            sock.connect((inet_ntop(family, verdict.target), 0))
            flow = _Echo(sock, counters, source, target, identifier)
            self._loop.watch(sock.fileno(), EPOLLIN, lambda _: self._ready(flow))
        except OSError as error:
            sock.close()
            counters.failed += 1
            self._refuse(packet, target, packets.kinds_of(error.errno))
            return None
        self._flows[source + target + identifier] = flow
        return flow

    def _ready(self, flow: _Echo) -> None:
        for _ in range(REPLIES_A_ROUND):
            try:
                size = flow.sock.recv_into(self._buffer)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    flow.counters.failed += 1
                return
            if size < 8 or self._buffer[0] not in (REPLY4, REPLY6):
                continue
            flow.counters.received += size
            rest = self._buffer[6:size]
            self._tun.send(packets.echo_reply(flow.target, flow.source, flow.identifier, rest))

    def _refuse(
        self, packet: memoryview, target: bytes, kinds: tuple[tuple[int, int], tuple[int, int]]
    ) -> None:
        if self._setting.limits.error_rate.take(self._loop.now()):
            sender = self._setting.site.gateway(target)
            self._tun.send(packets.error_for(packet, sender, kinds))

    def close(self) -> None:
        """Forget all flows."""
        for key in list(self._flows):
            self._close(key)

    def _sweep(self) -> None:
        now = self._loop.now()
        for key in [key for key, flow in self._flows.items() if now - flow.seen > IDLE_S]:
            self._close(key)
        self._loop.later(SWEEP_S, self._sweep)

    def _close(self, key: bytes) -> None:
        flow = self._flows.pop(key)
        self._loop.forget(flow.sock.fileno())
        flow.sock.close()

"""Datagrams: one connected socket of the host for each flow that a sandbox begins.

The host's kernel then takes answers of that destination only, and says of an ICMP error to which
flow it belongs: errors come back into the sandbox with the type and code that the network gave.
Datagrams of the host's clients to published ports come in as packets too, with the client's own
address as their source where the sandbox can answer to it.
"""

from __future__ import annotations

import errno
import struct
from select import EPOLLERR, EPOLLIN
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    MSG_ERRQUEUE,
    SO_ERROR,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOL_SOCKET,
    inet_ntop,
    inet_pton,
    socket,
)

from sandbox.services.network.user import packets
from sandbox.services.network.user.train import Train

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.services.network.user.account import Destination
    from sandbox.services.network.user.packets import Parsed
    from sandbox.services.network.user.setting import Resolver, Setting
    from sandbox.services.network.user.tun import Tun

IP_RECVERR, IPV6_RECVERR = 11, 25
SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6 = 2, 3
# Packet too big: the host's kernel fragments for us from then on.
TOO_BIG = ((3, 4), (2, 0))
_EXTENDED_ERR = struct.Struct("=IBBBBII")

DATAGRAM_MAX = 0xFFFF - 28
DATAGRAMS_A_ROUND = 64
RECEIVE_BYTES = 1 << 20
# A flow that only ever sent is forgotten sooner than one that had answers.
ONE_WAY_S = 30.0
TWO_WAYS_S = 180.0
SWEEP_S = 5.0
LOCAL_PORT = 49152


class Flow:
    """One flow of the sandbox and its socket on the host; `length` is that of `header`.

    The datagrams of one that is `alone` are sent one by one.
    """

    __slots__ = (
        "alone",
        "answered",
        "counters",
        "header",
        "length",
        "own",
        "remote",
        "seen",
        "sock",
    )

    def __init__(
        self, sock: socket, counters: Destination, own: tuple[bytes, int], remote: tuple[bytes, int]
    ) -> None:
        self.sock = sock
        self.counters = counters
        self.own = own
        self.remote = remote
        self.seen = 0.0
        self.answered = False
        self.alone = False
        self.header = b""
        self.length = -1


class _Client:
    """A client of a published port: where its answers go."""

    __slots__ = ("address", "counters", "seen", "sock")

    def __init__(self, sock: socket, address: Any, counters: Destination) -> None:
        self.sock = sock
        self.address = address
        self.counters = counters
        self.seen = 0.0


class Udp:
    """The flows of one sandbox, its questions to the name server, its published ports."""

    def __init__(self, setting: Setting, tun: Tun, resolver: Resolver) -> None:
        self._setting = setting
        self._loop = setting.loop
        self._account = setting.account
        self._tun = tun
        self._resolver = resolver
        self._flows: dict[bytes, Flow] = {}
        # By the flow of the answer, and by the host's socket and client.
        self._clients: dict[bytes, _Client] = {}
        self._ways_in: dict[tuple[int, Any], tuple[bytes, int]] = {}
        self._buffer = memoryview(bytearray(packets.VNET_SIZE + 48 + 2 * DATAGRAM_MAX))
        self._trains = True
        tun.take[packets.UDP] = self.take
        tun.short = Train(self._flows, self._send)
        self._loop.later(SWEEP_S, self._sweep)

    def take(self, packet: memoryview, parsed: Parsed) -> None:
        """A datagram came out of the sandbox."""
        _, source, target, start, end = parsed
        payload = start + 8
        if payload > end:
            return
        # The length of the UDP header may say less than that of the IP header.
        end = min(end, start + (packet[start + 4] << 8 | packet[start + 5]))
        if payload > end:
            return
        key = source + target + bytes(packet[start : start + 4])
        flow = self._flows.get(key)
        if flow is None:
            client = self._clients.get(key)
            if client is not None:
                self._answer(client, packet[payload:end])
                return
            flow = self._open(key, packet, parsed)
            if flow is None:
                return
        self._send(flow, packet[payload:end])

    def _send(self, flow: Flow, data: memoryview) -> None:
        flow.seen = self._loop.now()
        # An error of an earlier datagram is told by the next call, which then sends nothing.
        for _ in range(2):
            try:
                flow.counters.sent += flow.sock.send(data)
                return
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return
                if not self._errors(flow):
                    self._refuse(_as_sent(flow, data), flow.remote[0], error.errno)
                    return

    def publish(self, sock: socket, port: int) -> None:
        """Bring what comes to a bound socket of the host to `port` of the sandbox."""
        sock.setblocking(False)
        address = sock.getsockname()
        host = inet_pton(sock.family, address[0])
        counters = self._account.accepted("udp", host, address[1])
        counters.connections = 0
        self._loop.watch(sock.fileno(), EPOLLIN, lambda _: self._client_ready(sock, port, counters))

    def _open(self, key: bytes, packet: memoryview, parsed: Parsed) -> Flow | None:
        """A new flow, or None when it is not to be: then all that can be done is done."""
        _, source, target, start, end = parsed
        sport, dport = packets.PORTS.unpack_from(packet, start)
        setting = self._setting
        if setting.site.is_dns(target, dport):
            answer = _Answer(self._tun, target, dport, source, sport)
            self._resolver.ask(bytes(packet[start + 8 : end]), answer.send, stream=False)
            return None
        if packets.is_multicast(target):
            return None
        verdict = setting.egress.judge(target, dport, "udp")
        if not verdict.allowed:
            self._account.denied("udp", target, dport, verdict.rule, verdict.name)
            self._refuse(packet[:end], target, errno.EACCES)
            return None
        now = self._loop.now()
        if not setting.limits.flow_rate.take(now):
            self._account.dropped("flow rate")
            return None
        if len(self._flows) >= setting.limits.flows:
            self._close(min(self._flows, key=lambda old: self._flows[old].seen))
            self._account.dropped("flows")
        counters = self._account.opened("udp", target, dport, verdict.name)
        six = len(verdict.target) == 16
        try:
            sock = socket(AF_INET6 if six else AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
        except OSError:
            self._account.dropped("descriptors")
            return None
        try:
            if six:
                sock.setsockopt(IPPROTO_IPV6, IPV6_RECVERR, 1)
            else:
                sock.setsockopt(IPPROTO_IP, IP_RECVERR, 1)
            # As much as a normal user may have: bursts wait here while the process is elsewhere.
            sock.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)
            sock.connect((inet_ntop(sock.family, verdict.target), dport))
            flow = Flow(sock, counters, (source, sport), (target, dport))
            self._loop.watch(sock.fileno(), EPOLLIN, lambda mask: self._ready(flow, mask))
        except OSError as error:
            sock.close()
            counters.failed += 1
            self._refuse(packet[:end], target, error.errno)
            return None
        self._flows[key] = flow
        return flow

    def _ready(self, flow: Flow, mask: int) -> None:
        if mask & EPOLLERR and not self._errors(flow):
            # An error without a message stays until it is asked for.
            flow.sock.getsockopt(SOL_SOCKET, SO_ERROR)
        start = packets.VNET_SIZE + (28 if len(flow.own[0]) == 4 else 48)
        buffer, received = self._buffer, flow.sock.recv_into
        end, each = start, 0
        for _ in range(DATAGRAMS_A_ROUND):
            try:
                size = received(buffer[end:])
            except BlockingIOError:
                break
            except OSError:
                self._errors(flow)
                break
            flow.answered = True
            flow.counters.received += size
            if end > start and (size > each or not size or end + size - start > DATAGRAM_MAX):
                self._bring(flow, start, end, each)
                buffer[start : start + size] = buffer[end : end + size]
                end = start
            if end == start:
                each = size
            end += size
            if size < each or not size or not self._trains:
                self._bring(flow, start, end, each)
                end = start
        if end > start:
            self._bring(flow, start, end, each)
        flow.seen = self._loop.now()

    def _bring(self, flow: Flow, start: int, end: int, each: int) -> None:
        """Send the sandbox what the buffer holds, datagrams of `each` bytes."""
        buffer, size = self._buffer, end - start
        if size > each:
            buffer[:start] = packets.udp_header(*flow.remote, *flow.own, size, each)
            if self._tun.send_segments(buffer[:end]):
                return
            self._trains = False
            for at in range(start, end, each):
                part = buffer[at : min(at + each, end)]
                self._tun.send(packets.udp_header(*flow.remote, *flow.own, len(part)) + part)
            return
        if size != flow.length:
            flow.header = packets.udp_header(*flow.remote, *flow.own, size)
            flow.length = size
        buffer[:start] = flow.header
        self._tun.send(buffer[:end])

    def _errors(self, flow: Flow) -> bool:
        """Pass on the ICMP errors that came for a flow; whether there was any."""
        found = False
        while True:
            try:
                data, told, _, _ = flow.sock.recvmsg(packets.QUOTED4, 512, MSG_ERRQUEUE)
            except OSError:
                return found
            found = True
            for level, _, content in told:
                if level not in (IPPROTO_IP, IPPROTO_IPV6) or len(content) < _EXTENDED_ERR.size:
                    continue
                _, origin, kind, code, _, info, _ = _EXTENDED_ERR.unpack_from(content)
                if origin not in (SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6):
                    continue
                if (kind, code) != TOO_BIG[origin == SO_EE_ORIGIN_ICMP6]:
                    self._pass_on(flow, data, (kind, code), info)

    def _pass_on(self, flow: Flow, data: bytes, kind: tuple[int, int], info: int) -> None:
        """The error that came for a datagram of `data`, as if for the sandbox's own."""
        sent = _as_sent(flow, data)
        sender = self._setting.site.gateway(flow.own[0])
        self._tun.send(packets.error_for(sent, sender, (kind, kind), info))

    def _refuse(self, packet: bytes | memoryview, target: bytes, failure: int | None) -> None:
        if self._setting.limits.error_rate.take(self._loop.now()):
            sender = self._setting.site.gateway(target)
            self._tun.send(packets.error_for(packet, sender, packets.kinds_of(failure)))

    def _client_ready(self, sock: socket, port: int, counters: Destination) -> None:
        six = sock.family == AF_INET6
        start = packets.VNET_SIZE + (48 if six else 28)
        into = self._buffer[start:]
        own = self._setting.site.sandbox(b"" if six else b"1234")
        for _ in range(DATAGRAMS_A_ROUND):
            try:
                size, address = sock.recvfrom_into(into)
            except OSError:
                # Also an ICMP error for an answer: it concerns one of many clients.
                return
            way = self._ways_in.get((sock.fileno(), address)) or self._admit(
                sock, address, port, counters
            )
            if way is None:
                continue
            self._buffer[:start] = packets.udp_header(*way, own, port, size)
            self._tun.send(self._buffer[: start + size])
            counters.received += size

    def _admit(
        self, sock: socket, address: Any, port: int, counters: Destination
    ) -> tuple[bytes, int] | None:
        """The source under which the sandbox sees a new client."""
        site = self._setting.site
        host = site.seen_as(inet_pton(sock.family, address[0].partition("%")[0]))
        if len(self._clients) >= self._setting.limits.flows:
            self._account.dropped("clients")
            return None
        # Several clients may have to share the gateway's address, and the same port.
        for number in (address[1], *range(LOCAL_PORT, LOCAL_PORT + len(self._clients) + 1)):
            key = site.sandbox(host) + host + packets.PORTS.pack(port, number)
            if key not in self._clients and key not in self._flows:
                break
        counters.connections += 1
        client = self._clients[key] = _Client(sock, address, counters)
        client.seen = self._loop.now()
        way = self._ways_in[sock.fileno(), address] = host, number
        return way

    def _answer(self, client: _Client, payload: memoryview) -> None:
        client.seen = self._loop.now()
        try:
            client.counters.sent += client.sock.sendto(payload, client.address)
        except OSError:
            return

    def close(self) -> None:
        """Forget all flows."""
        for key in list(self._flows):
            self._close(key)

    def _sweep(self) -> None:
        now = self._loop.now()
        for key, flow in list(self._flows.items()):
            if now - flow.seen > (TWO_WAYS_S if flow.answered else ONE_WAY_S):
                self._close(key)
        for key, client in list(self._clients.items()):
            if now - client.seen > TWO_WAYS_S:
                del self._clients[key]
                self._ways_in.pop((client.sock.fileno(), client.address), None)
        self._loop.later(SWEEP_S, self._sweep)

    def _close(self, key: bytes) -> None:
        flow = self._flows.pop(key)
        self._loop.forget(flow.sock.fileno())
        flow.sock.close()


def _as_sent(flow: Flow, data: bytes | memoryview) -> bytes:
    """The packet of a datagram, as the sandbox sent it but for the sum."""
    return packets.udp_header(*flow.own, *flow.remote, len(data))[packets.VNET_SIZE :] + data


class _Answer:
    """Who asked the name server by a datagram."""

    __slots__ = ("_dport", "_source", "_sport", "_target", "_tun")

    def __init__(self, tun: Tun, target: bytes, dport: int, source: bytes, sport: int) -> None:
        self._tun = tun
        self._target = target
        self._dport = dport
        self._source = source
        self._sport = sport

    def send(self, message: bytes) -> None:
        """Send the answer, unless it is longer than a datagram."""
        if len(message) <= DATAGRAM_MAX:
            header = packets.udp_header(
                self._target, self._dport, self._source, self._sport, len(message)
            )
            self._tun.send(header + message)

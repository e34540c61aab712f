"""Connections out of a sandbox: the SYN is held until the host side is connected.

Only bare SYNs come through the TUN. What the policy refuses is answered at once. For the rest the
host side is connected first, without blocking: its refusal becomes a RST, an unreachable network
an ICMP error, and a time-out silence, so that connect() in the sandbox ends as it would on the
host. Once connected, the same SYN is sent again by a raw socket inside the namespace whose mark
turns it to the transparent listener: the sandbox's kernel completes the handshake, and the
accepted socket, known by its exact two addresses and ports, is joined with the one of the host.

Whatever else reaches the listener is reset, unless `accept_first`: without a TUN nothing holds
SYNs, so connections are accepted before their fate is known.
"""

from __future__ import annotations

import errno
from select import EPOLLERR, EPOLLIN
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_LINGER,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_KEEPIDLE,
    TCP_NODELAY,
    inet_ntop,
    inet_pton,
    socket,
)

from sandbox.services.network.user import packets
from sandbox.services.network.user.relay import EVENTS, LINGER_NONE, Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.services.network.user.account import Destination
    from sandbox.services.network.user.egress import Gate, Verdict
    from sandbox.services.network.user.loop import Loop
    from sandbox.services.network.user.packets import Parsed
    from sandbox.services.network.user.relay import Hub
    from sandbox.services.network.user.setting import Setting
    from sandbox.services.network.user.tun import Tun

    # source, source port, target, target port
    Key = tuple[bytes, int, bytes, int]

# The kernel gives up a SYN after 127 s (tcp_syn_retries 6), on the host as in the sandbox.
CONNECT_S = 130.0
ACCEPT_S = 5.0
SYN_MAX = 1024
SWEEP_S = 1.0
ACCEPTS_A_ROUND = 64
KEEPALIVE_S = 120
PAUSE_S = 0.2

SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC)
REFUSED = (errno.ECONNREFUSED, errno.ECONNRESET)


class _Held:
    """A SYN that waits: for its host side, then (`outer` connected) to be accepted."""

    __slots__ = ("connected", "counters", "deadline", "gate", "outer", "start", "syn", "verdict")

    def __init__(self, syn: bytes, start: int, deadline: float) -> None:
        self.syn = syn
        self.start = start
        self.deadline = deadline
        self.connected = False
        self.outer: socket | None = None
        self.counters: Destination | None = None
        self.gate: Gate | None = None
        self.verdict: Verdict | None = None


class Tcp:
    """The held SYNs and the listeners of one sandbox."""

    def __init__(self, setting: Setting, hub: Hub, serve_dns: Callable[[socket], None]) -> None:
        self._loop = setting.loop
        self._hub = hub
        self._site = setting.site
        self._egress = setting.egress
        self._account = setting.account
        self._limits = setting.limits
        self._serve_dns = serve_dns
        self._held: dict[Key, _Held] = {}
        self._tun: Tun | None = None
        self._raw: dict[int, socket] = {}
        # Our own connections to the listener, which publishing makes: peer → who wants it.
        self.expected: dict[tuple[str, int], Callable[[socket], None]] = {}

    def start(self, tun: Tun | None, listeners: list[socket], raw: dict[int, socket]) -> None:
        """Serve: `raw` by address length (4, 16). Without a TUN connections are accepted first."""
        self._tun = tun
        self._raw = raw
        if tun is not None:
            tun.take[packets.TCP] = self.take
        for listener in listeners:
            listener.setblocking(False)
            self._listen(listener)
        self._loop.later(SWEEP_S, self._sweep)

    def _listen(self, listener: socket) -> None:
        self._loop.watch(listener.fileno(), EPOLLIN, lambda _: self.accept(listener))

    def take(self, packet: memoryview, parsed: Parsed) -> None:
        """A segment came through the TUN."""
        _, source, target, start, end = parsed
        # With data in it (TCP Fast Open) it is sent again without them.
        if end > SYN_MAX or not packets.is_bare_syn(packet, start, end):
            return
        sport, dport = packets.PORTS.unpack_from(packet, start)
        key = (source, sport, target, dport)
        held = self._held.get(key)
        if held is not None:
            # Sent again: either nothing is known yet, or the listener had no room.
            if held.connected:
                self._inject(held)
            return
        if not self._room():
            return
        held = _Held(packets.whole_syn(packet, parsed), start, self._loop.now() + CONNECT_S)
        if self._site.is_dns(target, dport):
            self._held[key] = held
            self._connected(held)
            return
        verdict = self._egress.judge(target, dport, "tcp")
        if not verdict.allowed:
            self._deny(verdict, target, dport)
            self._answer(held, packets.PROHIBITED)
            return
        failure = self._connect(key, held, verdict)
        if failure:
            self._fail(key, failure)

    def _room(self) -> bool:
        limits = self._limits
        if len(self._held) >= limits.pending:
            self._account.dropped("pending connections")
        elif self._hub.full():
            self._account.dropped("connections")
        elif not limits.connection_rate.take(self._loop.now()):
            self._account.dropped("connection rate")
        else:
            return True
        return False

    def _deny(self, verdict: Verdict, target: bytes, port: int) -> None:
        self._account.denied("tcp", target, port, verdict.rule, verdict.name)

    def _connect(self, key: Key, held: _Held, verdict: Verdict) -> int:
        """Begin the host side; the errno of an immediate failure."""
        self._held[key] = held
        held.verdict = verdict
        held.counters = self._account.opened("tcp", key[2], key[3], verdict.name)
        held.gate = self._egress.gate(verdict, key[3])
        try:
            held.outer = outer = outward(verdict.target)
            failure = outer.connect_ex((inet_ntop(outer.family, verdict.target), key[3]))
            if failure not in (0, errno.EINPROGRESS):
                return failure
            self._loop.watch(outer.fileno(), EVENTS, lambda mask: self._outer_ready(key, mask))
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _outer_ready(self, key: Key, mask: int) -> None:
        held = self._held.get(key)
        if held is None or held.outer is None or held.connected:
            return
        if mask & EPOLLERR:
            self._fail(key, held.outer.getsockopt(SOL_SOCKET, SO_ERROR))
        else:
            self._connected(held)

    def _connected(self, held: _Held) -> None:
        held.connected = True
        held.deadline = self._loop.now() + ACCEPT_S
        self._inject(held)

    def _inject(self, held: _Held) -> None:
        """Send the SYN again, now to the listener."""
        six = held.syn[0] >> 4 == 6
        target = held.syn[24:40] if six else held.syn[16:20]
        raw = self._raw.get(len(target))
        if raw is None:
            return
        try:
            raw.sendto(held.syn, (inet_ntop(raw.family, target), 0))
        except OSError:
            # The sandbox's kernel sends the SYN again in a second.
            self._account.dropped("handshakes")

    def _fail(self, key: Key, failure: int) -> None:
        """The host side did not come about: say so as a network would."""
        held = self._held.pop(key)
        self._drop(held)
        if held.counters is not None:
            held.counters.failed += 1
        if failure in SHORT:
            self._account.dropped("descriptors")
        elif failure in REFUSED:
            self._send(packets.reset_for(held.syn, held.start))
        elif failure != errno.ETIMEDOUT:
            self._answer(held, packets.kinds_of(failure))

    def _answer(self, held: _Held, kinds: tuple[tuple[int, int], tuple[int, int]]) -> None:
        target = held.syn[16:20] if held.syn[0] >> 4 == 4 else held.syn[24:40]
        self._send(packets.error_for(held.syn, self._site.gateway(target), kinds))

    def _send(self, packet: bytes) -> None:
        if self._tun is not None:
            self._tun.send(packet)

    def _drop(self, held: _Held) -> None:
        if held.outer is not None:
            self._loop.forget(held.outer.fileno())
            held.outer.close()

    def accept(self, listener: socket) -> None:
        """Take the connections that stand on a transparent listener."""
        accept_some(self._loop, listener, self._accepted)

    def _accepted(self, inner: socket, peer: Any) -> None:
        want = self.expected.pop(peer[:2], None)
        if want is not None:
            want(inner)
            return
        own = inner.getsockname()
        family = inner.family
        key = (inet_pton(family, peer[0]), peer[1], inet_pton(family, own[0]), own[1])
        held = self._held.get(key)
        if held is not None and held.connected:
            del self._held[key]
            self._join(inner, held, key)
        elif self._tun is None:
            self._accept_first(inner, key)
        else:
            reset(inner)

    def _join(self, inner: socket, held: _Held, key: Key) -> None:
        outer, counters, verdict = held.outer, held.counters, held.verdict
        if outer is None or counters is None or verdict is None:
            self._serve_dns(inner)
            return
        refused = lambda: self._deny(verdict, key[2], key[3])  # noqa: E731
        Relay(self._hub, inner, outer, counters, gate=held.gate, refused=refused)

    def _accept_first(self, inner: socket, key: Key) -> None:
        """Without a TUN: the connection stands, so its failure can only be a reset."""
        target, port = key[2], key[3]
        if self._site.is_dns(target, port):
            self._serve_dns(inner)
            return
        verdict = self._egress.judge(target, port, "tcp")
        if not verdict.allowed:
            self._deny(verdict, target, port)
            reset(inner)
            return
        if self._hub.full():
            self._account.dropped("connections")
            reset(inner)
            return
        counters = self._account.opened("tcp", target, port, verdict.name)
        try:
            outer = outward(verdict.target)
        except OSError:
            self._account.dropped("descriptors")
            reset(inner)
            return
        failure = outer.connect_ex((inet_ntop(outer.family, verdict.target), port))
        if failure not in (0, errno.EINPROGRESS):
            counters.failed += 1
            outer.close()
            reset(inner)
            return
        gate = self._egress.gate(verdict, port)
        refused = lambda: self._deny(verdict, target, port)  # noqa: E731
        Relay(self._hub, inner, outer, counters, gate=gate, refused=refused)

    def _sweep(self) -> None:
        """Forget SYNs whose time is over: the sandbox's kernel has given them up as well."""
        now = self._loop.now()
        for key in [key for key, held in self._held.items() if held.deadline <= now]:
            held = self._held.pop(key)
            if held.counters is not None:
                held.counters.failed += 1
            if held.connected and held.outer is not None:
                self._loop.forget(held.outer.fileno())
                reset(held.outer)
            else:
                self._drop(held)
        self._loop.later(SWEEP_S, self._sweep)


def outward(target: bytes) -> socket:
    """A non-blocking socket of the host for a connection to an address."""
    family = AF_INET if len(target) == 4 else AF_INET6
    sock = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP)
    # A relay must not wait for more to send; that was the sender's to decide.
    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    # The sandbox's own keep-alives end here: a remote that vanished is noticed by ours.
    sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    sock.setsockopt(IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_S)
    return sock


def accept_some(loop: Loop, listener: socket, take: Callable[[socket, Any], None]) -> None:
    """Give what stands on a watched listener, non-blocking, to `take` with its peer's address."""
    for _ in range(ACCEPTS_A_ROUND):
        try:
            sock, peer = listener.accept()
        except OSError as error:
            if error.errno in SHORT:
                # The event would come for ever.
                loop.change(listener.fileno(), 0)
                loop.later(PAUSE_S, lambda: loop.change(listener.fileno(), EPOLLIN))
            return
        sock.setblocking(False)
        take(sock, peer)


def reset(sock: socket) -> None:
    """Close with a RST."""
    try:
        sock.setsockopt(SOL_SOCKET, SO_LINGER, LINGER_NONE)
    except OSError:
        pass
    sock.close()

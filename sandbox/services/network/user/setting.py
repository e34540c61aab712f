"""What the parts of the process share: addresses, bounds, who judges, counts and waits."""

from __future__ import annotations

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from sandbox.services.network.user.account import Account
    from sandbox.services.network.user.egress import Gate, Verdict
    from sandbox.services.network.user.loop import Loop

    class Judge(Protocol):
        """The policy, as egress.Egress is: `gate` is for what first bytes are looked at."""

        def judge(self, address: bytes, port: int, protocol: str) -> Verdict: ...
        def gate(self, verdict: Verdict, port: int) -> Gate | None: ...

    class Resolver(Protocol):
        """Who answers DNS messages; `answer` may be called later, or never."""

        def ask(self, message: bytes, answer: Callable[[bytes], None], *, stream: bool) -> None: ...


DNS_PORT = 53
# Descriptors that are neither a connection nor a flow: TUN, listeners, pipes, resolver.
RESERVED = 160


class Site(Record):
    """The addresses of a sandbox's network, 4 and 16 bytes; without IPv6 the latter are b""."""

    sandbox4: bytes
    gateway4: bytes
    dns4: bytes
    sandbox6: bytes = b""
    gateway6: bytes = b""
    dns6: bytes = b""

    def gateway(self, like: bytes) -> bytes:
        """The gateway of the family of `like`."""
        return self.gateway4 if len(like) == 4 else self.gateway6

    def sandbox(self, like: bytes) -> bytes:
        """The sandbox's own address of the family of `like`."""
        return self.sandbox4 if len(like) == 4 else self.sandbox6

    def seen_as(self, client: bytes) -> bytes:
        """The address under which the sandbox sees a client of a published port.

        Its own, unless an answer to it could not leave the sandbox: then the gateway's.
        """
        if len(client) == 4:
            local = client[0] in (0, 127) or client in (self.sandbox4, self.dns4)
        else:
            # ::1 and ::, link-local, v4-mapped and the rest of ::/8
            local = client[0] == 0 or client[0] == 0xFE or client in (self.sandbox6, self.dns6)
        return self.gateway(client) if local else client

    def is_dns(self, address: bytes, port: int) -> bool:
        """Whether it is the sandbox's name server that is spoken to."""
        return port == DNS_PORT and address in (self.dns4, self.dns6)


class Bucket:
    """`rate` a second, and `burst` at once; a rate of 0 is no limit."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more may be; `now` is a monotonic time in seconds."""
        if not self._rate:
            return True
        left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if left < 1:
            self._left = left
            return False
        self._left = left - 1
        return True


class Limits:
    """The bounds of every table, cut to what the process's limit of descriptors allows.

    Keys of `wanted`: connections, pending, flows, connections_per_second, flows_per_second; a
    rate of 0 is no limit.
    """

    def __init__(self, wanted: Mapping[str, int], descriptors: int) -> None:
        room = max(64, descriptors - RESERVED)
        # A connection has two descriptors, a held SYN and a flow one each.
        self.connections = min(wanted.get("connections", 4096), room // 4)
        self.pending = min(wanted.get("pending", 1024), room // 4)
        self.flows = min(wanted.get("flows", 1024), room // 4)
        self.pipes = 16
        rate = wanted.get("connections_per_second", 20_000)
        self.connection_rate = Bucket(rate, max(rate, 64))
        rate = wanted.get("flows_per_second", 2_000)
        self.flow_rate = Bucket(rate, max(rate, 64))
        # As the kernel bounds the ICMP errors that it makes itself.
        self.error_rate = Bucket(20_000, 20_000)


class Setting:
    """One sandbox's network, as its parts see it."""

    def __init__(
        self, loop: Loop, site: Site, egress: Judge, account: Account, limits: Limits
    ) -> None:
        self.loop = loop
        self.site = site
        self.egress = egress
        self.account = account
        self.limits = limits

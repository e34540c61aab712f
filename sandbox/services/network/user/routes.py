"""What the host's own routing says of an address: whose it is, and whether IPv6 leads anywhere.

Asks the kernel each time (RTM_GETROUTE, no privilege needed): addresses come and go with VPNs and
leases, and only the routing tables know all that are local, secondary and anycast ones included.
"""

from __future__ import annotations

import socket

from sandbox.linux import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_ANSWER_MAX = 4096
_TYPE_AT = 7  # rtm_type in struct rtmsg
_ANYBODY = bytes.fromhex("20010001000000000000000000000001")  # some address of 2000::/3


class Routes:
    """One netlink socket in the namespace where it was made."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._talk = socket.socket(socket.AF_NETLINK, kind, netlink.ROUTE)
        self._talk.bind((0, 0))
        # The kernel answers within sendto(2); the bound is for an answer that it had to drop.
        self._talk.settimeout(0.5)
        self._serial = 0

    def close(self) -> None:
        """Ask no more."""
        self._talk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def own(self, address: bytes) -> bool:
        """Whether packets to an address would not leave for another host: local, broadcast, …

        What cannot be routed at all is nobody's: connecting tells why. What the kernel does not
        answer for is taken for the host's own.
        """
        kind = self._kind(address)
        return kind is None or kind not in {0, netlink.UNICAST}

    def leads_ipv6(self) -> bool:
        """Whether the host has a route to the IPv6 addresses of others."""
        return self._kind(_ANYBODY) == netlink.UNICAST

    def _kind(self, address: bytes) -> int | None:
        """The RTN_ type of the route, 0 where there is none, None without an answer."""
        self._serial = self._serial % 0x7FFFFFFF + 1
        try:
            self._talk.sendto(netlink.numbered([netlink.get_route(address)], self._serial), (0, 0))
            while True:
                for kind, number, body in netlink.split(self._talk.recv(_ANSWER_MAX)):
                    if number == self._serial:
                        return body[_TYPE_AT] if kind == netlink.NEWROUTE else 0
        except OSError:
            return None

"""Datagrams that follow each other in one flow, sent by one call (udp(7), UDP_SEGMENT).

Most of what a datagram costs is its own way through the host's kernel, which is gone once for all
that are given to it together: it cuts them into datagrams of one size, of which only the last may
be shorter. A flow that cannot be sent so (a path with a smaller MTU, IPsec) is sent one by one.
"""

from __future__ import annotations

import errno
import struct
from socket import IPPROTO_UDP

from sandbox.services.network.user.packets import UDP
from sandbox.services.network.user.tun import BUFFER, Short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.services.network.user.udp import Flow

UDP_SEGMENT = 103
# UDP_MAX_SEGMENTS of the kernel, and what one IPv4 datagram may carry.
SEGMENTS_MOST = 64
TRAIN_BYTES = 0xFFFF - 28
_IMPOSSIBLE = (errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP)
_SIZE = struct.Struct("=H")
# Version, length, fragment, protocol, addresses and ports, length of the datagram.
_KNOWN = struct.Struct("!10xBxH2xHxB2x12sH2x")


class Train(Short):
    """The short way for most: IPv4 without options, of a flow of `flows`.

    `send(flow, data)` sends one datagram, and deals with what comes of it.
    """

    def __init__(self, flows: dict[bytes, Flow], send: Callable[[Flow, memoryview], None]) -> None:
        self._flows = flows
        self._send = send
        self._flow: Flow | None = None
        self._data = memoryview(b"")
        self._begin = self._end = self._each = self._count = 0

    def take(self, head: bytearray, body: memoryview, at: int, size: int) -> int:
        """See Short."""
        if size < 28:
            return -1
        first, total, fragment, protocol, key, whole = _KNOWN.unpack_from(head)
        flow = self._flows.get(key)
        if flow is None or first != 0x45 or protocol != UDP or fragment & 0x3FFF:
            return -1
        if not 8 <= whole <= total - 20 <= size - 20:
            return -1
        each: int = whole - 8
        end: int = at + each
        if (
            flow is self._flow
            and 0 < each <= self._each
            and self._count < SEGMENTS_MOST
            and end - self._begin <= TRAIN_BYTES
        ):
            self._count += 1
        else:
            self.flush()
            self._flow, self._data, self._begin, self._each, self._count = flow, body, at, each, 1
        self._end = end
        if each < self._each or each == 0 or flow.alone or end > BUFFER:
            self.flush()
            return 0
        return end

    def flush(self) -> None:
        """See Short."""
        flow, self._flow = self._flow, None
        if flow is None:
            return
        data, each = self._data[self._begin : self._end], self._each
        if self._count == 1:
            self._send(flow, data)
            return
        try:
            told = [(IPPROTO_UDP, UDP_SEGMENT, _SIZE.pack(each))]
            flow.counters.sent += flow.sock.sendmsg((data,), told)
        except OSError as error:
            # Nothing was sent; the cause may also be an error of an earlier datagram.
            flow.alone = error.errno in _IMPOSSIBLE
            for start in range(0, len(data), each):
                self._send(flow, data[start : start + each])

"""The TUN of a sandbox: its kernel's packets in, ours out.

Hostile packets end here: what does not parse is dropped, and so is everything once the other side
has taken the device away.
"""

from __future__ import annotations

import errno
import os
import select

from sandbox.services.network.user import packets
from sandbox.services.network.user.fragments import Fragments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.services.network.user.loop import Loop
    from sandbox.services.network.user.packets import Parsed

    Take = Callable[[memoryview, Parsed], None]

PACKETS_A_ROUND = 64
BUFFER = 1 << 16
# virtio, IP without options, UDP.
HEAD = packets.VNET_SIZE + 28


class Short:
    """The short way for datagrams of flows that are known: this one knows none."""

    def take(self, _head: bytearray, _body: memoryview, _at: int, _size: int) -> int:
        """Given the headers of a packet of `_size` bytes, whose rest begins at `_at` of the body:
        where the next one's may begin (0…BUFFER), or -1 for a packet that is not taken."""
        return -1

    def flush(self) -> None:
        """Send what was taken: afterwards nothing in the body is needed."""


class Tun:
    """One TUN: `take[protocol]` gets each datagram of that protocol, `other` the rest."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        # A packet's first bytes, and the rest behind the rest of the one before: what several
        # datagrams carry then stands side by side.
        self._head = bytearray(HEAD)
        self._body = memoryview(bytearray(2 * BUFFER))
        self._fragments = Fragments()
        self.take: dict[int, Take] = {}
        self.other: Take = lambda _packet, _parsed: None
        self.short = Short()
        os.set_blocking(fd, False)

    def start(self) -> None:
        """Read from now on."""
        self._loop.watch(self._fd, select.EPOLLIN, self._ready)

    def send(self, packet: bytes | bytearray | memoryview) -> bool:
        """Give the sandbox's kernel a packet behind its virtio header; whether it was taken."""
        try:
            os.write(self._fd, packet)
        except OSError:
            # Down, removed, without memory: packets get lost, as on every network.
            return False
        return True

    def send_segments(self, packet: memoryview) -> bool:
        """The same for a packet that the sandbox's kernel cuts up; False when it cannot.

        VIRTIO_NET_HDR_GSO_UDP_L4 came with Linux 6.2.
        """
        try:
            os.write(self._fd, packet)
        except OSError as error:
            return error.errno != errno.EINVAL
        return True

    def _ready(self, _mask: int) -> None:
        fd, head, body, take, at = self._fd, self._head, self._body, self.short.take, 0
        for _ in range(PACKETS_A_ROUND):
            try:
                size = os.readv(fd, (head, body[at:])) - packets.VNET_SIZE
            except BlockingIOError:
                break
            except OSError as error:
                # The device was removed: its event would come for ever.
                if error.errno == errno.EBADFD:
                    self._loop.forget(fd)
                break
            after = take(head, body, at, size)
            if after >= 0:
                at = after
                continue
            self.short.flush()
            rest = body[at : at + max(size + packets.VNET_SIZE - HEAD, 0)]
            self._take(memoryview(head + rest)[packets.VNET_SIZE :][: max(size, 0)])
            at = 0
        self.short.flush()

    def _take(self, packet: memoryview) -> None:
        parsed = packets.parse(packet)
        if parsed is None:
            whole = self._fragments.add(packet, self._loop.now())
            if whole is None:
                return
            packet = memoryview(whole)
            parsed = packets.parse(packet)
        if parsed is not None:
            self.take.get(parsed[0], self.other)(packet, parsed)

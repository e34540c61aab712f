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


class Tun:
    """One TUN: `take[protocol]` gets each datagram of that protocol, `other` the rest."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._buffer = bytearray(packets.VNET_SIZE + BUFFER)
        self._packet = memoryview(self._buffer)[packets.VNET_SIZE :]
        self._fragments = Fragments()
        self.take: dict[int, Take] = {}
        self.other: Take = lambda _packet, _parsed: None
        # Given a datagram as it stands, whether it was one of a flow that is known.
        self.known: Callable[[memoryview], bool] = lambda _packet: False
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

    def _ready(self, _mask: int) -> None:
        fd, into, whole, take = self._fd, [self._buffer], self._packet, self.take
        known = self.known
        for _ in range(PACKETS_A_ROUND):
            try:
                size = os.readv(fd, into) - packets.VNET_SIZE
            except BlockingIOError:
                return
            except OSError as error:
                # The device was removed: its event would come for ever.
                if error.errno == errno.EBADFD:
                    self._loop.forget(fd)
                return
            packet = whole[: max(size, 0)]
            if known(packet):
                continue
            parsed = packets.parse(packet)
            if parsed is None:
                whole_one = self._fragments.add(packet, self._loop.now())
                if whole_one is None:
                    continue
                packet = memoryview(whole_one)
                parsed = packets.parse(packet)
            if parsed is not None:
                take.get(parsed[0], self.other)(packet, parsed)

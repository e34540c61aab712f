"""Datagrams that the sandbox's kernel cut up for its MTU, put together again.

Bounded: few at a time, none longer than IP allows, none for long. Pieces that overlap spoil the
whole datagram (RFC 5722).
"""

from __future__ import annotations

from sandbox.services.network.user import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    # What all pieces of one datagram have in common: source, target, protocol, identification
    Key = tuple[bytes, bytes, int, bytes]

DATAGRAMS = 32
PIECES = 128
SECONDS = 5.0
LENGTH_MAX = 0xFFFF - 20


class _Datagram:
    __slots__ = ("began", "length", "pieces", "size")

    def __init__(self, began: float) -> None:
        self.began = began
        self.pieces: dict[int, bytes] = {}
        self.size = 0
        self.length = -1


class Fragments:
    """The datagrams of one sandbox that are not whole yet."""

    def __init__(self) -> None:
        self._open: dict[Key, _Datagram] = {}

    def add(self, packet: memoryview, now: float) -> bytes | None:
        """Take what `parse` did not; the whole datagram once its last piece has come."""
        found = _piece(packet)
        if found is None:
            return None
        key, offset, more, data = found
        known = self._open.get(key)
        if known is None or now - known.began > SECONDS:
            self._open.pop(key, None)
            if len(self._open) >= DATAGRAMS:
                # Dicts keep their order: the oldest.
                del self._open[next(iter(self._open))]
            known = self._open[key] = _Datagram(now)
        known.pieces[offset] = data
        known.size += len(data)
        if not more:
            known.length = offset + len(data)
        sound = len(known.pieces) <= PIECES and known.size <= LENGTH_MAX
        if not sound or (0 <= known.length < known.size):
            del self._open[key]
            return None
        if known.size != known.length:
            return None
        del self._open[key]
        return _whole(key, known)


def _whole(key: Key, known: _Datagram) -> bytes | None:
    data = b""
    for offset in sorted(known.pieces):
        if offset != len(data):
            return None
        data += known.pieces[offset]
    source, target, protocol, _ = key
    return packets.ip_header(source, target, protocol, len(data)) + data


def _piece(packet: memoryview) -> tuple[Key, int, bool, bytes] | None:
    """The key, the offset in bytes, whether more follows, and the content of a fragment."""
    size = len(packet)
    if size < 20:
        return None
    if packet[0] >> 4 == 4:
        start, end = (packet[0] & 15) * 4, packet[2] << 8 | packet[3]
        if start < 20 or not start < end <= size:
            return None
        offset, more = (packet[6] & 0x1F) << 11 | packet[7] << 3, bool(packet[6] & 0x20)
        if not offset and not more:
            return None
        key = bytes(packet[12:16]), bytes(packet[16:20]), packet[9], bytes(packet[4:6])
    else:
        if packet[0] >> 4 != 6 or size < 48 or packet[6] != packets.FRAGMENT6:
            return None
        start, end = 48, 40 + (packet[4] << 8 | packet[5])
        if not start < end <= size:
            return None
        offset, more = packet[42] << 8 | packet[43] & 0xF8, bool(packet[43] & 1)
        key = bytes(packet[8:24]), bytes(packet[24:40]), packet[40], bytes(packet[44:48])
    return key, offset, more, bytes(packet[start:end])

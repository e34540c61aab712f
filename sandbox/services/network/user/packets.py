"""The formats of packets between the kernel of the sandbox and this process. Pure.

A packet is an IP datagram without a link layer. `parse` believes no length that it reads; the
builders make headers the kernel accepts. TUN packets are preceded by `struct virtio_net_hdr`
(PLAIN, or NEEDS_CSUM_* where the kernel may skip the sum, as nothing can have changed it).
Formats: RFC 791, 8200, 768, 9293, 792, 4443.
"""

from __future__ import annotations

import errno
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    # protocol number, source, target, offset of the transport header, end of the datagram
    Parsed = tuple[int, bytes, bytes, int, int]

ICMP, TCP, UDP, FRAGMENT6, ICMPV6 = 1, 6, 17, 44, 58
VNET_SIZE = 10
PLAIN = bytes(VNET_SIZE)
# flags, gso type, header length, segment size, start of the sum, offset of its field
_VNET = struct.Struct("=BBHHHH")
NEEDS_CSUM_UDP4 = _VNET.pack(1, 0, 0, 0, 20, 6)
NEEDS_CSUM_UDP6 = _VNET.pack(1, 0, 0, 0, 40, 6)
_GSO_UDP_L4 = 5

SYN, RST, ACK = 2, 4, 16
TTL = 64

# Headers of IPv6 that only precede the transport: hop-by-hop and destination options.
_OPTIONS6 = (0, 60)
_OPTIONS6_MOST = 4
# So that an error is no longer than every link can carry.
QUOTED4, QUOTED6 = 548, 1192

PORTS = struct.Struct("!HH")
_UDP = struct.Struct("!HHHH")
_IP4 = struct.Struct("!BBHHHBBH4s4s")
_IP6 = struct.Struct("!IHBB16s16s")
_TCP = struct.Struct("!HHIIBBHHH")

# ICMP errors: (type, code) for IPv4 and IPv6.
NO_ROUTE = (3, 0), (1, 0)
NO_HOST = (3, 1), (1, 3)
NO_PORT = (3, 3), (1, 4)
PROHIBITED = (3, 13), (1, 1)

_KINDS = {
    errno.ECONNREFUSED: NO_PORT,
    errno.ENETUNREACH: NO_ROUTE,
    errno.EADDRNOTAVAIL: NO_ROUTE,
    errno.EAFNOSUPPORT: NO_ROUTE,
    errno.EACCES: PROHIBITED,
    errno.EPERM: PROHIBITED,
}


def kinds_of(failure: int | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """The ICMP error, for IPv4 and IPv6, that tells a host's errno."""
    return _KINDS.get(failure or 0, NO_HOST)


def ones(data: bytes | bytearray | memoryview) -> int:
    """The one's complement sum of 16-bit words, folded: 0…65534 (65535 is 0)."""
    # 2**16 is 1 modulo 65535, so a number is congruent to the sum of its 16-bit digits.
    number = int.from_bytes(data, "big")
    return (number << 8 if len(data) & 1 else number) % 0xFFFF


def checksum(data: bytes | bytearray | memoryview) -> int:
    """The Internet checksum; never 0, which UDP reads as "none"."""
    return 0xFFFF - ones(data)


def pseudo(source: bytes, target: bytes, protocol: int, length: int) -> int:
    """The sum of the pseudo header of TCP, UDP and ICMPv6."""
    return (ones(source) + ones(target) + protocol + (length >> 16) + (length & 0xFFFF)) % 0xFFFF


def parse(packet: memoryview) -> Parsed | None:
    """Where things are in a whole datagram; None for fragments and what makes no sense."""
    size = len(packet)
    if size < 20:
        return None
    first = packet[0]
    if first >> 4 == 4:
        start, end = (first & 15) * 4, packet[2] << 8 | packet[3]
        # A fragment has an offset or the flag "more fragments".
        if start < 20 or not start <= end <= size or packet[6] & 0x3F or packet[7]:
            return None
        return packet[9], bytes(packet[12:16]), bytes(packet[16:20]), start, end
    if first >> 4 != 6 or size < 40:
        return None
    start, end, protocol = 40, 40 + (packet[4] << 8 | packet[5]), packet[6]
    if end > size:
        return None
    for _ in range(_OPTIONS6_MOST):
        if protocol not in _OPTIONS6:
            break
        if start + 8 > end:
            return None
        protocol, start = packet[start], start + 8 + packet[start + 1] * 8
    if start > end or protocol == FRAGMENT6:
        return None
    return protocol, bytes(packet[8:24]), bytes(packet[24:40]), start, end


def is_multicast(address: bytes) -> bool:
    """Whether nobody in particular is meant: multicast and the limited broadcast."""
    if len(address) == 16:
        return address[0] == 0xFF
    return address[0] >> 4 == 14 or address == b"\xff\xff\xff\xff"


def ip_header(source: bytes, target: bytes, protocol: int, length: int) -> bytes:
    """The IP header for `length` bytes of payload."""
    if len(source) == 16:
        return _IP6.pack(0x60000000, length, protocol, TTL, source, target)
    total = 20 + length
    # The sum of the fixed words, so that the header is packed once.
    total_sum = (0x4500 + total + 0x4000 + (TTL << 8 | protocol) + ones(source) + ones(target)) % (
        0xFFFF
    )
    return _IP4.pack(0x45, 0, total, 0, 0x4000, TTL, protocol, 0xFFFF - total_sum, source, target)


def udp_header(
    source: bytes, sport: int, target: bytes, dport: int, length: int, each: int = 0
) -> bytes:
    """virtio, IP and UDP headers for `length` bytes of payload; the kernel completes the sum.

    With `each` the payload is that of several datagrams of so many bytes, the last of fewer or as
    many, which the kernel parts.
    """
    whole = 8 + length
    if each:
        start = 20 if len(source) == 4 else 40
        first = _VNET.pack(1, _GSO_UDP_L4, start + 8, each, start, 6)
    else:
        first = NEEDS_CSUM_UDP4 if len(source) == 4 else NEEDS_CSUM_UDP6
    partial = pseudo(source, target, UDP, whole)
    return (
        first
        + ip_header(source, target, UDP, whole)
        + _UDP.pack(sport, dport, whole, partial or 0xFFFF)
    )


def is_bare_syn(packet: memoryview, start: int, end: int) -> bool:
    """Whether a TCP segment only asks for a connection."""
    return end - start >= 20 and packet[start + 13] & (SYN | ACK | RST | 1) == SYN


def whole_syn(packet: memoryview, parsed: Parsed) -> bytes:
    """A TCP segment with its checksum made complete, as a raw socket wants it."""
    _, source, target, start, end = parsed
    whole = bytearray(packet[:end])
    whole[start + 16 : start + 18] = b"\0\0"
    total = ones(memoryview(whole)[start:]) + pseudo(source, target, TCP, end - start)
    whole[start + 16 : start + 18] = (0xFFFF - total % 0xFFFF).to_bytes(2, "big")
    return bytes(whole)


def reset_for(syn: bytes, start: int) -> bytes:
    """The segment, with its virtio header, that says "refused" to a SYN."""
    view = memoryview(syn)
    source, target = (syn[12:16], syn[16:20]) if syn[0] >> 4 == 4 else (syn[8:24], syn[24:40])
    sport, dport, sequence = struct.unpack_from("!HHI", view, start)
    offset = max(20, (syn[start + 12] >> 4) * 4)
    # The SYN counts as one byte; data in it (TCP Fast Open) count too.
    expected = (sequence + 1 + max(0, len(syn) - start - offset)) & 0xFFFFFFFF
    segment = bytearray(_TCP.pack(dport, sport, 0, expected, 5 << 4, RST | ACK, 0, 0, 0))
    total = ones(segment) + pseudo(target, source, TCP, 20)
    segment[16:18] = (0xFFFF - total % 0xFFFF).to_bytes(2, "big")
    return PLAIN + ip_header(target, source, TCP, 20) + segment


def error_for(
    packet: bytes | memoryview,
    sender: bytes,
    kinds: tuple[tuple[int, int], tuple[int, int]],
    info: int = 0,
) -> bytes:
    """The ICMP error, with its virtio header, for the sender of `packet`.

    `sender` is who says so (of the packet's family), `kinds` the (type, code) for IPv4 and IPv6,
    `info` the word after the checksum (an MTU).
    """
    if len(sender) == 4:
        kind, code = kinds[0]
        target = bytes(packet[12:16])
        message = bytearray(struct.pack("!BBHI", kind, code, 0, info) + packet[:QUOTED4])
        message[2:4] = checksum(message).to_bytes(2, "big")
        return PLAIN + ip_header(sender, target, ICMP, len(message)) + message
    kind, code = kinds[1]
    target = bytes(packet[8:24])
    message = bytearray(struct.pack("!BBHI", kind, code, 0, info) + packet[:QUOTED6])
    total = ones(message) + pseudo(sender, target, ICMPV6, len(message))
    message[2:4] = (0xFFFF - total % 0xFFFF).to_bytes(2, "big")
    return PLAIN + ip_header(sender, target, ICMPV6, len(message)) + message


def echo_reply(source: bytes, target: bytes, identifier: bytes, rest: bytes | memoryview) -> bytes:
    """An ICMP echo reply; `rest` is the sequence number (2 bytes) and the data."""
    six = len(source) == 16
    message = bytearray((b"\x81" if six else b"\0") + b"\0\0\0" + identifier + rest)
    total = ones(message)
    if six:
        total += pseudo(source, target, ICMPV6, len(message))
    message[2:4] = (0xFFFF - total % 0xFFFF).to_bytes(2, "big")
    return PLAIN + ip_header(source, target, ICMPV6 if six else ICMP, len(message)) + message

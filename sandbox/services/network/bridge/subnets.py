"""Subnets as numbers: reading, writing, overlap, and the addresses of one network. Pure."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from sandbox.policy.egress import show_address
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST = 2  # 0 is the network, 1 the gateway
_MOST_SANDBOXES = 1 << 16
# Given to networks in this order: 256 of 254 addresses, of the private range that others use least.
_POOL, _POOL_PREFIX = "10.73.0.0/16", 24
_MAC = b"\x02\x73"  # locally administered


EVERYWHERE = (show_address(bytes(4)), show_address(bytes(16)))
"""What stands for all addresses of the host."""


class Subnet(Record):
    """`base`: the network's own address, 4 or 16 bytes; `prefix`: its length in bits."""

    base: bytes
    prefix: int

    def address(self, number: int) -> bytes:
        """The address with this number."""
        value = int.from_bytes(self.base, "big") + number
        return value.to_bytes(len(self.base), "big")

    @property
    def text(self) -> str:
        """As 10.73.0.0/24."""
        return f"{show_address(self.base)}/{self.prefix}"

    @property
    def last(self) -> int:
        """The highest number that a sandbox can have; below FIRST where there is none."""
        size: int = 1 << (len(self.base) * 8 - self.prefix)
        return min(size - 2, _MOST_SANDBOXES)

    def overlaps(self, other: Subnet) -> bool:
        """Whether an address can be in both."""
        bits = len(self.base) * 8 - min(self.prefix, other.prefix)
        if len(self.base) != len(other.base):
            return False
        mine, others = (int.from_bytes(each.base, "big") >> bits for each in (self, other))
        return mine == others


def parse_address(text: str) -> bytes:
    """4 or 16 bytes. Raises ValueError."""
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except OSError:
        raise ValueError(f'"{text}" is not an address') from None


def parse_subnet(text: str) -> Subnet:
    """Read ADDRESS/BITS, which must be the network's own address. Raises ValueError."""
    address, slash, bits = text.partition("/")
    base = parse_address(address)
    most = len(base) * 8
    if not slash or not bits.isdecimal() or not bits.isascii() or int(bits) > most:
        raise ValueError(f'"{text}" must be ADDRESS/BITS, such as 10.73.4.0/24')
    prefix = int(bits)
    host = int.from_bytes(base, "big") & ((1 << (most - prefix)) - 1)
    if host:
        base = (int.from_bytes(base, "big") - host).to_bytes(len(base), "big")
        raise ValueError(f'"{text}" has bits behind its prefix: {Subnet(base, prefix).text}')
    return Subnet(base, prefix)


def check_subnet(subnet: Subnet) -> None:
    """Refuse what sandboxes cannot live in. Raises ValueError."""
    version6 = len(subnet.base) == 16
    narrow, wide = (120, 48) if version6 else (30, 8)
    if not wide <= subnet.prefix <= narrow:
        raise ValueError(f"{subnet.text} must have a prefix of {wide} to {narrow} bits")
    first = subnet.base[0]
    special = first in {0, 127} or first >= 224 or subnet.base[:2] == b"\xa9\xfe"
    if version6:
        special = first in {0, 0xFE, 0xFF}
    if special:
        raise ValueError(f"{subnet.text} is no range that hosts can have")


def free_subnet(taken: Iterable[Subnet]) -> Subnet | None:
    """The first of the pool that overlaps nothing."""
    pool, used = parse_subnet(_POOL), list(taken)
    for number in range(1 << (_POOL_PREFIX - pool.prefix)):
        found = Subnet(pool.address(number << (32 - _POOL_PREFIX)), _POOL_PREFIX)
        if not any(found.overlaps(other) for other in used):
            return found
    return None


def local_subnet(chance: bytes) -> Subnet:
    """An IPv6 network of its own, from five random bytes (RFC 4193)."""
    return Subnet(b"\xfd" + chance + bytes(10), 64)


def mac_address(address: bytes) -> bytes:
    """The hardware address that goes with an IPv4 address: who gets it again is known already."""
    return _MAC + address

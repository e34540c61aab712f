"""netlink(7) and rtnetlink(7): messages as bytes, and a short talk with the kernel.

A message is made with sequence number 0; `numbered` joins messages into what one send carries.
Addresses are 4 or 16 bytes in network order, and their length tells the family. All numbers are
the kernel's (include/uapi/linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, fib_rules.h).
"""

from __future__ import annotations

import _socket
import os
from struct import Struct

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROUTE, NETFILTER = 0, 12  # NETLINK_ROUTE, NETLINK_NETFILTER

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
_NESTED = 0x8000
_ERROR, _DONE = 2, 3

NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR = 20
NEWROUTE, GETROUTE = 24, 26
NEWRULE = 32

LOOPBACK = 1
"""The index of lo, in every network namespace."""

MAIN = 254  # RT_TABLE_MAIN
UNICAST, LOCAL = 1, 2  # RTN_*
_FRA_FWMARK, _FRA_TABLE, _TO_TABLE = 10, 15, 1
_AF_INET, _AF_INET6, _AF_BRIDGE = 2, 10, 7
_UP = 1  # IFF_UP
_NODAD = 0x02  # IFA_F_NODAD

_HEADER = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
_LINK = Struct("=BxHiII")
_ADDRESS = Struct("=BBBBI")
_ROUTE = Struct("=BBBBBBBBI")
_U32 = Struct("=I")
_I32 = Struct("=i")


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a string with its NUL."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """An attribute that holds a number in the machine's order."""
    return attribute(kind, _U32.pack(value))


def message(kind: int, flags: int, body: bytes) -> bytes:
    """One message, with no sequence number yet."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body + bytes(-len(body) % 4)


def numbered(messages: Iterable[bytes], first: int = 1) -> bytes:
    """The messages in one piece, numbered from `first`: an answer names the one it belongs to."""
    joined = bytearray()
    for number, each in enumerate(messages, first):
        joined += each[:8] + _U32.pack(number) + each[12:]
    return bytes(joined)


def acknowledged(batch: bytes) -> int:
    """How many messages of a batch the kernel will answer with an acknowledgement or an error."""
    return sum(bool(flags & ACK) for _, flags in _headers(batch))


def _headers(batch: bytes) -> Iterator[tuple[int, int]]:
    """The (kind, flags) of each message."""
    at = 0
    while at < len(batch):
        length, kind, flags, _, _ = _HEADER.unpack_from(batch, at)
        yield kind, flags
        at += (length + 3) & ~3


def _family(address: bytes) -> int:
    return _AF_INET if len(address) == 4 else _AF_INET6


def new_link(name: str, kind: str, *, data: bytes = b"", attributes: bytes = b"") -> bytes:
    """Make a link of a kind: "bridge", "veth"; `data` is what IFLA_INFO_DATA holds."""
    info = text(1, kind) + (nested(2, data) if data else b"")  # IFLA_INFO_KIND, IFLA_INFO_DATA
    body = _LINK.pack(0, 0, 0, 0, 0) + text(3, name) + attributes + nested(18, info)
    return message(NEWLINK, REQUEST | ACK | CREATE | EXCL, body)


def veth_peer(name: str, *, attributes: bytes = b"") -> bytes:
    """The `data` of a new veth: its other end."""
    return attribute(1, _LINK.pack(0, 0, 0, 0, 0) + text(3, name) + attributes)  # VETH_INFO_PEER


def set_link(
    index: int,
    *,
    name: str = "",
    mtu: int = 0,
    master: int = 0,
    up: bool = True,
    attributes: bytes = b"",
) -> bytes:
    """Change a link, found by its index, or by its name where the index is 0."""
    parts = [text(3, name)] if name else []  # IFLA_IFNAME
    if mtu:
        parts.append(u32(4, mtu))  # IFLA_MTU
    if master:
        parts.append(u32(10, master))  # IFLA_MASTER
    header = _LINK.pack(0, 0, index, _UP if up else 0, _UP)
    return message(NEWLINK, REQUEST | ACK, header + b"".join(parts) + attributes)


def set_bridge_port(index: int, *, hairpin: bool, isolated: bool) -> bytes:
    """Change a link's port of its bridge. What comes in may go out there again (`hairpin`);
    isolated ports do not reach each other."""
    # IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED in IFLA_PROTINFO
    flags = attribute(4, bytes((hairpin,))) + attribute(33, bytes((isolated,)))
    port = nested(12, flags)
    header = _LINK.pack(0, 0, index, 0, 0)
    return message(SETLINK, REQUEST | ACK, bytes((_AF_BRIDGE,)) + header[1:] + port)


def get_link(name: str) -> bytes:
    """Ask for one link by its name."""
    return message(GETLINK, REQUEST | ACK, _LINK.pack(0, 0, 0, 0, 0) + text(3, name))


def delete_link(name: str) -> bytes:
    """Remove a link by its name."""
    return message(DELLINK, REQUEST | ACK, _LINK.pack(0, 0, 0, 0, 0) + text(3, name))


def add_address(index: int, address: bytes, prefix: int) -> bytes:
    """Give a link an address; an IPv6 one is usable at once, without duplicate detection."""
    flags = _NODAD if len(address) == 16 else 0
    header = _ADDRESS.pack(_family(address), prefix, flags, 0, index)
    parts = attribute(2, address) + attribute(1, address)  # IFA_LOCAL, IFA_ADDRESS
    return message(NEWADDR, REQUEST | ACK | CREATE | EXCL, header + parts)


def add_route(
    destination: bytes,
    prefix: int,
    *,
    index: int = 0,
    gateway: bytes = b"",
    source: bytes = b"",
    table: int = MAIN,
    kind: int = UNICAST,
) -> bytes:
    """Route a prefix (0 = everything) to a link, a gateway or both."""
    scope = 254 if kind == LOCAL else 253 if not gateway else 0  # RT_SCOPE_HOST, LINK, UNIVERSE
    if len(destination) == 16:
        scope = 0
    # RTPROT_BOOT
    header = _ROUTE.pack(_family(destination), prefix, 0, 0, min(table, 255), 3, scope, kind, 0)
    parts = [u32(15, table)]  # RTA_TABLE
    if prefix:
        parts.append(attribute(1, destination))  # RTA_DST
    if index:
        parts.append(u32(4, index))  # RTA_OIF
    if gateway:
        parts.append(attribute(5, gateway))  # RTA_GATEWAY
    if source:
        parts.append(attribute(7, source))  # RTA_PREFSRC
    return message(NEWROUTE, REQUEST | ACK | CREATE | EXCL, header + b"".join(parts))


def add_mark_rule(mark: int, table: int, *, ipv6: bool) -> bytes:
    """What carries a mark is routed by a table of its own."""
    family = _AF_INET6 if ipv6 else _AF_INET
    header = _ROUTE.pack(family, 0, 0, 0, min(table, 255), 0, 0, _TO_TABLE, 0)
    body = header + u32(_FRA_TABLE, table) + u32(_FRA_FWMARK, mark)
    return message(NEWRULE, REQUEST | ACK | CREATE | EXCL, body)


def dump_links() -> bytes:
    """Ask for all links."""
    return message(GETLINK, REQUEST | DUMP, _LINK.pack(0, 0, 0, 0, 0))


def dump_routes(family: int = 0) -> bytes:
    """Ask for all routes."""
    return message(GETROUTE, REQUEST | DUMP, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def get_route(destination: bytes) -> bytes:
    """Ask for the one route that packets to an address would take."""
    header = _ROUTE.pack(_family(destination), 8 * len(destination), 0, 0, 0, 0, 0, 0, 0)
    return message(GETROUTE, REQUEST, header + attribute(1, destination))  # RTA_DST


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by their kind; of several of a kind the last. Stops at what does not fit."""
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The (kind, sequence number, body) of each message in an answer."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, number, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        yield kind, number, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


class Link(Record):
    """What the kernel tells of a link. `kind` "" is a device; `master` 0 is on no bridge."""

    index: int
    name: str
    kind: str
    alias: str
    mtu: int
    master: int


def link(body: bytes) -> Link:
    """Read the body of a NEWLINK."""
    found = attributes(body[_LINK.size :])

    def word(kind: int, among: dict[int, bytes] = found) -> str:
        return among.get(kind, b"").rstrip(b"\0").decode("utf-8", "replace")

    def number(kind: int) -> int:
        return int.from_bytes(found.get(kind, b""), "little")

    kind = word(1, attributes(found.get(18, b"")))  # IFLA_LINKINFO, IFLA_INFO_KIND
    index = _LINK.unpack_from(body)[2]
    return Link(index, word(3), kind, word(20), number(4), number(10))  # 20 = IFLA_IFALIAS


def routes(answer: Iterable[tuple[int, bytes]]) -> Iterator[tuple[bytes, int, int, int]]:
    """(destination, prefix, table, index of the link) of each route; b"" is everything."""
    for kind, body in answer:
        if kind == NEWROUTE:
            prefix, table = body[1], body[4]
            found = attributes(body[_ROUTE.size :])
            table = int.from_bytes(found.get(15, bytes((table,))), "little")
            index = int.from_bytes(found.get(4, b""), "little")
            yield found.get(1, b""), prefix, table, index


def links(answer: Iterable[tuple[int, bytes]]) -> dict[str, int]:
    """The index of each link by its name, from what `ask` gave for `dump_links`."""
    found = {}
    for kind, body in answer:
        if kind == NEWLINK:
            name = attributes(body[_LINK.size :]).get(3, b"").rstrip(b"\0").decode()
            found[name] = _LINK.unpack_from(body)[2]
    return found


def ask(protocol: int, batch: bytes, *, over: int = -1) -> list[tuple[int, bytes]]:
    """Send what `numbered` made, in the namespace of the calling thread; the answers.

    `over`: a descriptor of a socket of that protocol that was made elsewhere, the caller's.

    They are (kind, body) of what is no acknowledgement. Raises OSError for the first refusal,
    whose `filename` is the kernel's own explanation where it gives one.
    """
    left = acknowledged(batch)
    asking = (GETLINK, GETROUTE)  # DUMP is what other flags mean to other kinds
    dumping = any(kind in asking and flags & DUMP for kind, flags in _headers(batch))
    found: list[tuple[int, bytes]] = []
    fd = os.dup(over) if over >= 0 else None
    talk = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol, fd)
    try:
        for option in (10, 11):  # NETLINK_CAP_ACK, NETLINK_EXT_ACK
            talk.setsockopt(270, option, 1)  # SOL_NETLINK
        if over < 0:
            talk.bind((0, 0))
        talk.settimeout(10.0)
        talk.sendto(batch, (0, 0))
        while left or dumping:
            for answer, _, body in split(talk.recv(1 << 18)):
                if answer == _ERROR:
                    _check(body)
                    left -= 1
                elif answer == _DONE:
                    dumping = False
                else:
                    found.append((answer, body))
    finally:
        talk.close()
    return found


def _check(body: bytes) -> None:
    """NLMSG_ERROR: the errno, the header of what was refused, then NLMSGERR_ATTR_*."""
    number = -_I32.unpack_from(body)[0]
    if not number:
        return
    said = attributes(body[4 + _HEADER.size :]).get(1, b"").rstrip(b"\0").decode("ascii", "replace")
    raise OSError(number, os.strerror(number), said or None)

"""nf_tables over netlink: tables, chains and rules as bytes; see include/uapi/linux/netfilter.

A rule is a row of expressions that work on registers: what loads a value stands before what
compares it, and a comparison that fails ends the rule. All numbers are in network order here.
"""

from __future__ import annotations

from struct import Struct

from sandbox.linux.netlink import (
    ACK,
    APPEND,
    CREATE,
    REQUEST,
    attribute,
    message,
    nested,
    text,
)

INET, IPV4, IPV6 = 1, 2, 10  # NFPROTO_*
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)  # NF_INET_*
MANGLE, FILTER = -150, 0  # the usual priorities
DROP, ACCEPT = 0, 1
EQ, NEQ, LT, LTE, GT, GTE = range(6)  # NFT_CMP_*
META_MARK, META_IIF, META_OIF = 3, 4, 5
META_NFPROTO, META_L4PROTO = 15, 16
NETWORK, TRANSPORT = 1, 2  # payload bases

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_BEGIN, _END = 16, 17  # NFNL_MSG_BATCH_*
_NEWTABLE, _GETTABLE, _NEWCHAIN, _NEWRULE = 0, 1, 3, 6
_FIRST, _SECOND = 8, 9  # NFT_REG32_00, NFT_REG32_01
_VERDICT = 0
_GENERIC = Struct(">BBH")
_BE32 = Struct(">I")
_SBE32 = Struct(">i")


def _be32(kind: int, value: int) -> bytes:
    return attribute(kind, _BE32.pack(value))


def _message(kind: int, flags: int, family: int, body: bytes) -> bytes:
    flags |= REQUEST | ACK
    return message(_SUBSYSTEM | kind, flags, _GENERIC.pack(family, 0, 0) + body)


def transaction(*messages: bytes) -> tuple[bytes, ...]:
    """The messages between the marks of one batch: the kernel does all of it or nothing."""
    marks = _GENERIC.pack(0, 0, _SUBSYSTEM >> 8)
    return (message(_BEGIN, REQUEST, marks), *messages, message(_END, REQUEST, marks))


def table(family: int, name: str) -> bytes:
    """Make a table, or find it made."""
    return _message(_NEWTABLE, CREATE, family, text(1, name))


def get_table(family: int, name: str) -> bytes:
    """Ask for a table by its name."""
    return _message(_GETTABLE, 0, family, text(1, name))


def chain(
    family: int, of: str, name: str, *, kind: str, hook: int, priority: int, policy: int = ACCEPT
) -> bytes:
    """A base chain; `kind` is "filter", "route" or "nat"."""
    place = nested(4, _be32(1, hook), attribute(2, _SBE32.pack(priority)))  # NFTA_CHAIN_HOOK
    body = text(1, of) + text(3, name) + place + _be32(5, policy) + text(7, kind)
    return _message(_NEWCHAIN, CREATE, family, body)


def rule(family: int, of: str, chain_name: str, *expressions: bytes) -> bytes:
    """A rule at the end of a chain."""
    body = text(1, of) + text(2, chain_name) + nested(4, *(nested(1, e) for e in expressions))
    return _message(_NEWRULE, CREATE | APPEND, family, body)


def _expression(name: str, *attributes: bytes) -> bytes:
    return text(1, name) + nested(2, *attributes)


def _value(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(1, value))  # NFTA_DATA_VALUE


def load_meta(key: int) -> bytes:
    """Load what is known of the packet: META_*, in the machine's order."""
    return _expression("meta", _be32(2, key), _be32(1, _FIRST))


def load_payload(base: int, offset: int, length: int) -> bytes:
    """Load bytes of a header."""
    parts = (_be32(1, _FIRST), _be32(2, base), _be32(3, offset), _be32(4, length))
    return _expression("payload", *parts)


def mask(bits: bytes) -> bytes:
    """Keep these bits of what was loaded."""
    parts = (_be32(1, _FIRST), _be32(2, _FIRST), _be32(3, len(bits)))
    return _expression("bitwise", *parts, _value(4, bits), _value(5, bytes(len(bits))))


def compare(way: int, value: bytes) -> bytes:
    """Go on where what was loaded compares so."""
    return _expression("cmp", _be32(1, _FIRST), _be32(2, way), _value(3, value))


def matches(loaded: bytes, value: bytes, way: int = EQ) -> tuple[bytes, bytes]:
    """Load and compare."""
    return loaded, compare(way, value)


def set_mark(mark: int) -> tuple[bytes, bytes]:
    """Mark the packet."""
    value = mark.to_bytes(4, "little")  # the machines that sbx knows are little-endian
    return _immediate(_FIRST, value), _expression("meta", _be32(2, META_MARK), _be32(3, _FIRST))


def _immediate(register: int, value: bytes) -> bytes:
    return _expression("immediate", _be32(1, register), _value(2, value))


def verdict(code: int) -> bytes:
    """ACCEPT or DROP."""
    data = nested(2, nested(2, attribute(1, _BE32.pack(code))))  # NFTA_DATA_VERDICT, _CODE
    return _expression("immediate", _be32(1, _VERDICT), data)


def transparent(family: int, address: bytes, port: int) -> tuple[bytes, bytes, bytes]:
    """Give the packet to the IP_TRANSPARENT socket that listens there (NFT_MSG tproxy)."""
    # An IPv6 address takes four registers, so the port stands behind it.
    after = _FIRST + (len(address) + 3) // 4
    return (
        _immediate(_FIRST, address),
        _immediate(after, port.to_bytes(2, "big")),
        _expression("tproxy", _be32(1, family), _be32(2, _FIRST), _be32(3, after)),
    )

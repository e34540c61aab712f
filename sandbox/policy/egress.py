"""What a sandbox may reach, as people write it: "example.org:443", "*.example.org", "10.0.0.0/8".

    NAME[:PORTS][/PROTOCOL]            one name
    *.NAME[:PORTS][/PROTOCOL]          every name below it, not itself
    ADDRESS[/BITS][:PORTS][/PROTOCOL]  an address or a network; IPv6 in brackets: [2001:db8::]/32
    host:PORTS[/PROTOCOL]              the loopback of the host, by the gateway's address
    public[:PORTS][/PROTOCOL]          every address that is nobody's in particular (see `special`)

PORTS is a port or a range such as 8000-8010; PROTOCOL is tcp, udp or icmp. Without PROTOCOL a rule
holds for all three, with PORTS for tcp and udp. Every rule has one canonical spelling (`text`).
Owns the grammar and what kind of place an address is. Pure; judges nothing: in the mode "user" that
is services/network/user's, on bridges the kernel's. Every function raises ValueError with one line.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_aton, inet_ntop, inet_pton

from sandbox.policy.units import quote
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    Kind = Literal["name", "below", "network", "host", "public"]

PROTOCOLS = ("tcp", "udp", "icmp")
PORT_MAX = 65535
PUBLISH_MAX = 1024
_TEXT_MAX = 320
_ALL = "; what is nobody's in particular is public"
_NAME_MAX = 253
_LABEL_MAX = 63
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
# IDNA 2003 and 2008 read these differently: they could name two places.
_DEVIATING = "\u00df\u1e9e\u03c2\u200c\u200d"


class Rule(Record):
    """`name`: of the kinds "name" and "below", canonical. `network`: 4 or 16 bytes, for "network".

    `low` and `high` bound the ports, both included. `protocol`: "" for every one. `text` is the
    canonical spelling, which parses to the same rule.
    """

    kind: Kind
    text: str
    name: str = ""
    network: bytes = b""
    bits: int = 0
    low: int = 0
    high: int = PORT_MAX
    protocol: str = ""

    def covers(self, port: int, protocol: str) -> bool:
        """Whether the rule is about this port and protocol at all; icmp has no port."""
        if protocol == "icmp":
            return self.protocol == "icmp" or (not self.protocol and not self.low)
        return self.low <= port <= self.high and self.protocol in {"", protocol}


class Rules(Record):
    """`deny` wins over `allow`; what neither names is denied.

    `sni`: connections to ports 80 and 443 that only a name allows must name it themselves.
    """

    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    sni: bool = False


class Publish(Record):
    """Ports `low` to `high` at `address` of the host lead to `inner` and following inside.

    `low` is 0 for one port that the host picks.
    """

    address: bytes
    low: int
    high: int
    inner: int
    protocol: str = "tcp"


# -- kinds of places


class Place(Record):
    """A range of addresses with a use of its own; `open`: a rule may name addresses in it."""

    network: bytes
    bits: int
    word: str
    open: bool = True


def _place(text: str, word: str, *, may: bool = True) -> Place:
    address, _, bits = text.partition("/")
    return Place(_pack(address), int(bits), word, may)


def _pack(address: str) -> bytes:
    return inet_pton(AF_INET6 if ":" in address else AF_INET, address)


PLACES = (
    _place("169.254.169.254/32", "metadata"),
    _place("169.254.170.2/32", "metadata"),
    _place("100.100.100.200/32", "metadata"),
    _place("168.63.129.16/32", "metadata"),
    _place("192.0.0.192/32", "metadata"),
    _place("0.0.0.0/8", "unspecified", may=False),
    _place("10.0.0.0/8", "private"),
    _place("100.64.0.0/10", "private"),
    _place("127.0.0.0/8", "loopback", may=False),
    _place("169.254.0.0/16", "link-local"),
    _place("172.16.0.0/12", "private"),
    _place("192.0.0.0/24", "private"),
    _place("192.168.0.0/16", "private"),
    _place("198.18.0.0/15", "private"),
    _place("224.0.0.0/4", "multicast", may=False),
    _place("240.0.0.0/4", "reserved", may=False),
    _place("fd00:ec2::254/128", "metadata"),
    _place("fd20:ce::254/128", "metadata"),
    _place("::1/128", "loopback", may=False),
    _place("::/128", "unspecified", may=False),
    _place("64:ff9b:1::/48", "private"),
    _place("2001::/23", "reserved"),
    _place("fc00::/7", "private"),
    _place("fe80::/10", "link-local", may=False),
    _place("fec0::/10", "private"),
    _place("ff00::/8", "multicast", may=False),
)
"""The narrowest first: of a place within a place only the inner one counts."""

_MAPPED = bytes(10) + b"\xff\xff"
# Addresses that carry an IPv4 address, which is what a translator on the way connects to:
# (prefix, its bits, how many bytes stand before the IPv4 address).
_CARRIERS = ((_pack("64:ff9b::"), 96, 12), (_pack("2002::"), 16, 2))


def within(address: bytes, network: bytes, bits: int) -> bool:
    """Whether an address of 4 or 16 bytes is in a network of the same family."""
    if len(address) != len(network):
        return False
    shift = 8 * len(address) - bits
    return int.from_bytes(address, "big") >> shift == int.from_bytes(network, "big") >> shift


def canonical(address: bytes) -> bytes:
    """The address that the kernel really connects to: IPv4 for what is mapped into IPv6."""
    return address[12:] if len(address) == 16 and address[:12] == _MAPPED else address


def carried(address: bytes) -> tuple[bytes, int]:
    """(IPv4 address, bits before it) in an address of NAT64 or 6to4; (b"", 0) in any other."""
    if len(address) == 16:
        for prefix, bits, start in _CARRIERS:
            if within(address, prefix, bits):
                return address[start : start + 4], 8 * start
    return b"", 0


def special(address: bytes) -> Place | None:
    """What an address is when it is not simply somebody's public one. It must be canonical.

    Of an address that carries an IPv4 address: what that is.
    """
    for place in PLACES:
        if within(address, place.network, place.bits):
            return place
    inner, before = carried(address)
    if inner:
        found = special(inner)
        if found is None:
            return None
        whole = address[: before // 8] + found.network + address[before // 8 + 4 :]
        return Place(whole, before + found.bits, found.word, found.open)
    # ::/8 holds what once was "IPv4-compatible"; only 2000::/3 was ever given to the public.
    if len(address) == 16 and address[0] >> 5 != 1:
        return Place(bytes(16), 0, "reserved", False)
    return None


def special_within(network: bytes, bits: int) -> list[tuple[bytes, int]]:
    """What a rule of a network does not mean: the special places in it, none within another.

    Those that carry special IPv4 addresses too, where the network is of such addresses alone; in
    a wider one all of 6to4.
    """
    found = [(place.network, place.bits) for place in PLACES]
    for prefix, width, start in _CARRIERS:
        if within(network, prefix, width):
            end = prefix[start + 4 :]
            found += [
                (prefix[:start] + place.network + end, 8 * start + place.bits)
                for place in PLACES
                if len(place.network) == 4
            ]
        else:
            found.append((prefix, width))
    found = [each for each in found if each[1] > bits and within(each[0], network, bits)]
    return [
        each
        for each in found
        if not any(wide[1] < each[1] and within(each[0], *wide) for wide in found)
    ]


# -- names


def canonical_name(text: str) -> str:
    """Lower case, ASCII, without the dot at the end: "Bücher.Example." is "xn--bcher-kva.example".

    An IDNA name is what all programs agree on or an error. No address is a name.
    """
    name = text
    if not name.isascii():
        if any(char in _DEVIATING for char in name):
            raise ValueError(f"{quote(text)} means two names; write it as xn--…")
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{quote(text)} is not a name; write it as xn--…") from None
    name = name.lower()
    name = name[:-1] if name.endswith(".") else name
    if not name or len(name) > _NAME_MAX:
        raise ValueError(f"{quote(text)} is not a name of 1 to {_NAME_MAX} characters")
    labels = name.split(".")
    for label in labels:
        hyphen = label.startswith("-") or label.endswith("-")
        if not 0 < len(label) <= _LABEL_MAX or hyphen or not _LABEL.issuperset(label):
            raise ValueError(f"{quote(text)} is not a name: {quote(label)} is not a part of one")
    if _numeric(labels[-1]):
        raise ValueError(_spelled(text, name))
    return name


def _numeric(label: str) -> bool:
    # What ends like this is an IPv4 address to inet_aton(3) and to browsers, never a name.
    digits = label[2:] if label.startswith("0x") else label
    return all(char in "0123456789abcdef" for char in digits) and (
        label.startswith("0x") or label.isdigit()
    )


def _spelled(text: str, address: str) -> str:
    try:
        meant = inet_ntop(AF_INET, inet_aton(address))
    except (OSError, ValueError):
        return f"{quote(text)} is neither a name nor an address"
    return f"{quote(text)} is a spelling that programs read differently; write {meant}"


# -- rules


def parse_rule(text: str) -> Rule:
    """The rule that `text` writes; ValueError says what is wrong with it."""
    if not isinstance(text, str) or not text or len(text) > _TEXT_MAX:
        raise ValueError(f"must be such as example.org:443, found {quote(text)}")
    if not text.isprintable() or " " in text:
        raise ValueError(f"must not hold spaces or control characters, found {text!a}")
    if "://" in text:
        raise ValueError(f"{quote(text)} is a URL; a rule is its host and port: example.org:443")
    place, rest = _split_place(text)
    bits, low, high, protocol = _parse_rest(text, rest)
    ports = f":{_ports(low, high)}" if low else ""
    tail = ports + (f"/{protocol}" if protocol else "")
    if place in {"host", "public"}:
        if bits is not None:
            raise ValueError(f"{quote(text)}: only an address has bits")
        if place == "public":
            return Rule("public", place + tail, low=low, high=high, protocol=protocol)
        if not low:
            raise ValueError(f"{quote(text)} opens the loopback of the host; write host:PORT")
        return Rule("host", place + tail, low=low, high=high, protocol=protocol)
    address = _parse_address(text, place)
    if address is not None:
        network, bits = _parse_network(text, address, bits)
        shown = _show_network(network, bits)
        return Rule("network", shown + tail, "", network, bits, low, high, protocol)
    if bits is not None:
        raise ValueError(f"{quote(text)}: only an address has bits")
    kind: Kind = "below" if place.startswith("*.") else "name"
    if "*" in place.removeprefix("*."):
        raise ValueError(
            f"{quote(text)}: * stands only for the first part, as in *.example.org{_ALL}"
        )
    if place in {"all", "any"}:
        raise ValueError(f"{quote(text)} is no name of a host{_ALL}")
    name = canonical_name(place.removeprefix("*."))
    if name == "localhost" or name.endswith(".localhost"):
        raise ValueError(f"{quote(text)} is the sandbox itself; the host's loopback is host:PORT")
    if name in {"host", "public"}:
        raise ValueError(f"{quote(text)}: {name} is a word of its own")
    shown = ("*." if kind == "below" else "") + name
    return Rule(kind, shown + tail, name, low=low, high=high, protocol=protocol)


def parse_rules(allow: Iterable[str], deny: Iterable[str], *, sni: bool = False) -> Rules:
    """Rules from texts that were checked before."""
    return Rules(tuple(map(parse_rule, allow)), tuple(map(parse_rule, deny)), sni)


def _split_place(text: str) -> tuple[str, str]:
    """The name or address, without brackets, and what follows it."""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in inside:
            raise ValueError(f"{quote(text)}: brackets hold an IPv6 address, as in [2001:db8::1]")
        address, slash, bits = inside.partition("/")
        return address, slash + bits + rest
    if text.count(":") > 1:
        raise ValueError(f"{quote(text)}: an IPv6 address stands in brackets, as in [2001:db8::1]")
    ends = [at for at in (text.find(":"), text.find("/")) if at >= 0]
    end = min(ends, default=len(text))
    return text[:end], text[end:]


def _parse_rest(text: str, rest: str) -> tuple[int | None, int, int, str]:
    """(bits, first port, last port, protocol) of "/8:80-90/tcp", every part optional."""
    bits, low, high, protocol = None, 0, PORT_MAX, ""
    if rest[:1] == "/" and rest[1:2].isdigit():
        digits, rest = _take(rest[1:])
        bits = _number(text, digits, 0, 128)
    if rest[:1] == ":":
        first, rest = _take(rest[1:])
        low = high = _number(text, first, 1, PORT_MAX)
        if rest[:1] == "-":
            last, rest = _take(rest[1:])
            high = _number(text, last, 1, PORT_MAX)
        if high < low:
            raise ValueError(
                f"{quote(text)}: the ports {low}-{high} are none; the lower goes first"
            )
    if rest[:1] == "/":
        protocol, rest = rest[1:], ""
        if protocol not in PROTOCOLS:
            raise ValueError(f"{quote(text)}: {quote(protocol)} is not tcp, udp or icmp")
    if rest:
        raise ValueError(f"{quote(text)}: {quote(rest)} is neither :PORT nor /tcp, /udp or /icmp")
    if protocol == "icmp" and low:
        raise ValueError(f"{quote(text)}: icmp has no ports")
    return bits, low, high, protocol


def _take(text: str) -> tuple[str, str]:
    end = 0
    while end < len(text) and text[end] in "0123456789":
        end += 1
    return text[:end], text[end:]


def _number(text: str, digits: str, low: int, high: int) -> int:
    plain = digits.isdigit() and len(digits) <= 5 and (digits == "0" or digits[0] != "0")
    if not plain or not low <= int(digits) <= high:
        raise ValueError(f"{quote(text)}: {quote(digits)} is not a number from {low} to {high}")
    return int(digits)


def _ports(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _parse_address(text: str, place: str) -> bytes | None:
    """The bytes of an address, None for what can only be a name."""
    try:
        return _pack(place)
    except (OSError, ValueError):
        if ":" in place or "%" in place:
            raise ValueError(f"{quote(text)}: {quote(place)} is not an IPv6 address") from None
        return None


def _parse_network(text: str, address: bytes, bits: int | None) -> tuple[bytes, int]:
    size = 8 * len(address)
    bits = size if bits is None else bits
    if bits > size:
        raise ValueError(f"{quote(text)}: an address of this kind has {size} bits")
    if size == 128 and bits >= 96 and canonical(address) != address:
        address, bits, size = canonical(address), bits - 96, 32
    kept = int.from_bytes(address, "big") >> (size - bits) << (size - bits)
    network = kept.to_bytes(size // 8, "big")
    if network != address:
        raise ValueError(
            f"{quote(text)} has bits set after /{bits}; {_show_network(network, bits)}"
        )
    place = special(network)
    if place and not place.open and bits >= place.bits:
        more = "; the host's own is host:PORT" if place.word == "loopback" else ""
        raise ValueError(f"{quote(text)} is {place.word}: no sandbox can reach it{more}")
    return network, bits


def show_address(address: bytes) -> str:
    """An address as people write it, without brackets."""
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def show_place(address: str, port: int, protocol: str, name: str = "") -> str:
    """What was reached, as a rule writes it, behind the name that led there, if one did."""
    place = f"{f'[{address}]' if ':' in address else address}:{port}" if port else address
    return f"{name} {place}/{protocol}".lstrip()


def _show_network(network: bytes, bits: int) -> str:
    shown = show_address(network)
    shown = f"[{shown}]" if len(network) == 16 else shown
    return shown if bits == 8 * len(network) else f"{shown}/{bits}"


# -- other things with ports


def parse_publish(text: str) -> Publish:
    """[IP:]HOSTPORT:PORT[/udp]: "8080:80", "0.0.0.0:8000-8009:8000-8009", "[::1]:0:53/udp"."""
    what = "must be [IP:]HOSTPORT:PORT[/udp], such as 8080:80"
    if not isinstance(text, str) or not text or len(text) > _TEXT_MAX:
        raise ValueError(f"{what}, found {quote(text)}")
    front, slash, protocol = text.partition("/")
    if slash and protocol not in {"tcp", "udp"}:
        raise ValueError(f"{quote(text)}: {quote(protocol)} is not tcp or udp")
    where, colon, inner = front.rpartition(":")
    address, _, outer = where.rpartition(":")
    if not colon or not inner or not outer:
        more = f"; 0:{inner} has one picked" if inner.isdigit() else ""
        raise ValueError(f"{what}, found {quote(text)}{more}")
    if address.startswith("[") == (":" not in address) or address.startswith("[") != (
        address.endswith("]")
    ):
        raise ValueError(f"{quote(text)}: an IPv6 address stands in brackets, as in [::1]:8080:80")
    try:
        packed = _pack(address.strip("[]") or "127.0.0.1")
    except (OSError, ValueError):
        raise ValueError(f"{quote(text)}: {quote(address)} is not an address") from None
    low, high = _range(text, outer, 0)
    first, last = _range(text, inner, 1)
    if last - first != high - low:
        raise ValueError(f"{quote(text)}: both ranges must hold as many ports")
    if high - low >= PUBLISH_MAX:
        raise ValueError(f"{quote(text)}: more than {PUBLISH_MAX} ports")
    if not low and high:
        raise ValueError(f"{quote(text)}: port 0 stands for one port that the host picks")
    return Publish(packed, low, high, first, protocol or "tcp")


def _range(text: str, ports: str, lowest: int) -> tuple[int, int]:
    first, dash, last = ports.partition("-")
    low = _number(text, first, lowest, PORT_MAX)
    high = _number(text, last, low, PORT_MAX) if dash else low
    return low, high


def parse_upstream(text: str) -> tuple[str, int]:
    """A name server: "192.0.2.53", "192.0.2.53:5353", "[2001:db8::53]" → (address, port)."""
    wrong = f"must be the address of a name server, such as 192.0.2.53, found {quote(text)}"
    if not isinstance(text, str) or len(text) > _TEXT_MAX:
        raise ValueError(wrong)
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    place, rest = _split_place(text)
    bits, low, high, protocol = _parse_rest(text, rest)
    try:
        packed = _pack(place)
    except (OSError, ValueError):
        raise ValueError(wrong) from None
    if bits is not None or protocol or (low and low != high):
        raise ValueError(wrong)
    return show_address(packed), low or 53

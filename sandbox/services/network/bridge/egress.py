"""What a policy lets a sandbox reach, as a chain of nftables: the rules of policy/egress.py.

`deny` first, then what is allowed, then nothing. It is the destination that the sandbox asked for
which is judged, also where it is a published port that leads elsewhere. What a name leads to is not
known before somebody asks: each rule with a name has sets, which the name server has filled.
"""

from __future__ import annotations

from sandbox.policy.egress import (
    PLACES,
    PORT_MAX,
    parse_rule,
    show_address,
    special,
    special_within,
    within,
)
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sandbox.policy.egress import Rule

REJECT = "reject with icmpx admin-prohibited"
NUMBERS = {"tcp": 6, "udp": 17}
"""Protocols are numbers here: what names they have depends on the host's /etc/protocols."""

ECHO = "1, 58"  # ICMP, ICMPv6
_FAMILIES = (("ip", "ipv4_addr", 4), ("ip6", "ipv6_addr", 16))
_PUBLIC6 = b"\x20" + bytes(15)  # 2000::/3: all that was ever given to the public
_CARRIERS6 = "2002::/16"  # 6to4: holds IPv4 addresses of every kind


class Learned(Record):
    """An address that a name led to, by the rule that knows the name; good until `until_s`."""

    rule: str
    address: bytes
    until_s: float


def has_names(texts: Iterable[str]) -> bool:
    """Whether one of the rules is about a name."""
    return any(parse_rule(text).kind in ("name", "below") for text in texts)


def has_host(texts: Iterable[str]) -> bool:
    """Whether one of the rules is about the host itself."""
    return any(parse_rule(text).kind == "host" for text in texts)


def chain(
    name: str,
    allow: Sequence[str],
    deny: Sequence[str],
    gateways: Sequence[bytes] = (),
    learned: Iterable[Learned] = (),
    now_s: float = 0.0,
) -> list[str]:
    """The chain `name` with the sets that it needs, as nft(8) reads them."""
    known = list(learned)
    sets: list[str] = []
    rules: list[str] = []
    for texts, verdict in ((deny, REJECT), (allow, "accept")):
        for number, text in enumerate(texts):
            rule = parse_rule(text)
            opens = verdict != REJECT
            label = f"{name}_{'a' if opens else 'd'}{number}"
            if rule.kind in ("name", "below"):
                # Who owns a name decides where it leads, also to what is private.
                led = [e for e in known if e.rule == text and not (opens and special(e.address))]
                sets += _sets(label, led, now_s)
            places = _places(rule, label, gateways, opens=opens)
            rules += [f"{to} {_ports(rule)} {verdict}" for to in places]
    return [*sets, f"chain {name} {{", *rules, REJECT, "}"]


def _sets(label: str, known: Sequence[Learned], now_s: float) -> Iterator[str]:
    for family, kind, size in _FAMILIES:
        found = {e.address: int(e.until_s - now_s) for e in known if len(e.address) == size}
        items = [f"{show_address(a)} timeout {left}s" for a, left in found.items() if left > 0]
        elements = f" elements = {{ {', '.join(items)} }}" if items else ""
        yield f"set {label}_{family} {{ type {kind}; flags timeout;{elements} }}"


def _places(rule: Rule, label: str, gateways: Sequence[bytes], *, opens: bool) -> Iterator[str]:
    """One match for each family that the rule has."""
    for family, _, size in _FAMILIES:
        to = f"ct original {family} daddr"
        if rule.kind in ("name", "below"):
            yield f"{to} @{label}_{family}"
        elif rule.kind == "network" and len(rule.network) == size:
            yield f"{to} {_network(rule, to) if opens else _shown(rule.network, rule.bits)}"
        elif rule.kind == "host":
            yield from (f"{to} {show_address(each)}" for each in gateways if len(each) == size)
        elif rule.kind == "public":
            yield f"{to} {_public(size)}"


def _shown(network: bytes, bits: int) -> str:
    return f"{show_address(network)}/{bits}"


def _network(rule: Rule, to: str) -> str:
    """A network without the special places in it: each is to be written down."""
    network, bits = rule.network, rule.bits
    if len(network) == 16 and bits < 3 and within(_PUBLIC6, network, bits):
        network, bits = _PUBLIC6, 3
    others = ", ".join(_shown(*place) for place in special_within(network, bits))
    return _shown(network, bits) + (f" {to} != {{ {others} }}" if others else "")


def _public(size: int) -> str:
    """What is nobody's in particular: all but the places with a use of their own."""
    places = [place for place in PLACES if len(place.network) == size]
    outer = [
        place
        for place in places
        if not any(
            other.bits < place.bits and within(place.network, other.network, other.bits)
            for other in places
        )
    ]
    shown = [f"{show_address(place.network)}/{place.bits}" for place in outer]
    if size == 4:
        return f"!= {{ {', '.join(shown)} }}"
    # Only 2000::/3 was ever given to the public.
    inside = [text for text in shown if text[0] == "2"]
    return f"2000::/3 ct original ip6 daddr != {{ {', '.join([*inside, _CARRIERS6])} }}"


def _ports(rule: Rule) -> str:
    if rule.protocol == "icmp":
        return f"meta l4proto {{ {ECHO} }}"
    every = rule.low == 0 and rule.high == PORT_MAX
    if rule.protocol:
        protocols = str(NUMBERS[rule.protocol])
    else:
        protocols = f"{NUMBERS['tcp']}, {NUMBERS['udp']}" + f", {ECHO}" * every
    ports = "" if every else f" ct original proto-dst {rule.low}-{rule.high}"
    return f"meta l4proto {{ {protocols} }}{ports}"

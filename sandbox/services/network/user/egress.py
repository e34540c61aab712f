"""Judges what a sandbox wants to reach, by its rules and by what names were resolved for it.

An address that a name of the list resolved to is remembered here, by the resolver, and may then be
reached by any program at the ports of that name's rules. What a name resolves to is the business
of whoever owns the name, so no name ever opens an address that is private, link-local, metadata or
the host's own: only a rule that writes down the address does, or a network within that range.
"""

from __future__ import annotations

from time import monotonic

from sandbox.policy.egress import canonical, canonical_name, carried, special
from sandbox.record import Record
from sandbox.services.network.user.hello import asked_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandbox.policy.egress import Rule, Rules

    Gate = Callable[[bytes], bool | None]

TTL_MIN = 60.0
GRACE = 3600.0  # programs keep addresses for longer than they may
ADDRESSES_MAX = 4096
NAMES_MAX = 16  # remembered for one address
JUDGED_MAX = 4096
JUDGED_SECONDS = 10.0  # the host's own addresses change
WEB_PORTS = (80, 443)
# Zones that mean something only near the host (RFC 6761, 6762, 7686, 8375, 9476 and ICANN's).
LOCAL_ZONES = frozenset({"localhost", "local", "internal", "arpa", "onion", "alt", "invalid"})


class Verdict(Record):
    """`rule`: the rule that allowed or denied, or one word of why. `name`: resolved to `target`.

    `target`: where the host side connects, canonical. `check`: only a name allows this, and the
    connection must ask for it (see `Egress.gate`).
    """

    allowed: bool
    rule: str
    target: bytes = b""
    name: str = ""
    check: bool = False


class _Networks:
    """Rules about addresses, found by the leading bits of one."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._tables: dict[tuple[int, int], dict[int, list[Rule]]] = {}
        for rule in rules:
            if rule.kind == "network":
                size = 8 * len(rule.network)
                table = self._tables.setdefault((size, rule.bits), {})
                leading = int.from_bytes(rule.network, "big") >> (size - rule.bits)
                table.setdefault(leading, []).append(rule)

    def find(self, address: bytes, port: int, protocol: str) -> list[Rule]:
        """The rules that cover this, in no order that matters."""
        number, size, found = int.from_bytes(address, "big"), 8 * len(address), []
        for (width, bits), table in self._tables.items():
            if width == size:
                for rule in table.get(number >> (size - bits), ()):
                    if rule.covers(port, protocol):
                        found.append(rule)
        return found


class _Names:
    """Rules about names, found by a name and by each of its parents."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._exact: dict[str, list[Rule]] = {}
        self._below: dict[str, list[Rule]] = {}
        for rule in rules:
            if rule.kind == "name":
                self._exact.setdefault(rule.name, []).append(rule)
            elif rule.kind == "below":
                self._below.setdefault(rule.name, []).append(rule)

    def __bool__(self) -> bool:
        return bool(self._exact or self._below)

    def find(self, name: str) -> list[Rule]:
        """The rules that a canonical name falls under."""
        found = list(self._exact.get(name, ()))
        if self._below:
            _, dot, parent = name.partition(".")
            while dot:
                found += self._below.get(parent, ())
                _, dot, parent = parent.partition(".")
        return found


class Egress:
    """The rules of one sandbox and the addresses that its names have led to.

    `gateways`: addresses inside that stand for the host → the loopback address they lead to.
    `own`: whether a canonical address is one of the host's own, at this moment.
    """

    def __init__(
        self,
        rules: Rules,
        gateways: dict[bytes, bytes],
        own: Callable[[bytes], bool],
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._gateways = gateways
        self._own = own
        self._now = now
        self._sni = rules.sni
        self._hosts = [rule for rule in rules.allow if rule.kind == "host"]
        self._denied_hosts = [rule for rule in rules.deny if rule.kind == "host"]
        self._public = [rule for rule in rules.allow if rule.kind == "public"]
        self._denied_public = [rule for rule in rules.deny if rule.kind == "public"]
        self._networks, self._denied_networks = _Networks(rules.allow), _Networks(rules.deny)
        self._names, self._denied_names = _Names(rules.allow), _Names(rules.deny)
        self._learned: dict[bytes, dict[str, float]] = {}
        self._judged: dict[bytes, dict[tuple[int, str], tuple[Verdict, float]]] = {}
        self._judged_count = 0
        self._judged_names: dict[str, Verdict] = {}

    # -- addresses

    def judge(self, address: bytes, port: int, protocol: str) -> Verdict:
        """Whether the sandbox may reach this; `port` is 0 for "icmp"."""
        kept = self._judged.get(address)
        found = kept.get((port, protocol)) if kept else None
        now = self._now()
        if found and found[1] > now:
            return found[0]
        verdict, until = self._judge(canonical(address), port, protocol, now)
        self._judged_count += 1
        if self._judged_count > JUDGED_MAX:
            self._judged.clear()
            self._judged_count = 1
        self._judged.setdefault(address, {})[port, protocol] = verdict, until
        return verdict

    def _judge(self, address: bytes, port: int, protocol: str, now: float) -> tuple[Verdict, float]:
        until = now + JUDGED_SECONDS
        if address in self._gateways:
            return self._judge_host(self._gateways[address], port, protocol), until
        place = special(address)
        if place and not place.open:
            return Verdict(False, place.word), until
        inner, _ = carried(address)
        names = self._names_of(address, now)
        shown = next(reversed(names), "")
        if names:
            until = min(until, *names.values())
        for found in (address, inner):
            for rule in self._denied_networks.find(found, port, protocol) if found else ():
                return Verdict(False, f"deny {rule.text}", name=shown), until
        for name in names:
            for rule in self._denied_names.find(name):
                if rule.covers(port, protocol):
                    return Verdict(False, f"deny {rule.text}", name=name), until
        own = self._own(address) or (bool(inner) and self._own(inner))
        for rule in self._networks.find(address, port, protocol):
            # A wide network does not mean the special places within it: each is to be named.
            exact = rule.bits == 8 * len(address)
            meant = place is None or rule.bits >= place.bits
            if exact or (meant and not own):
                return Verdict(True, rule.text, address, shown), until
        if own or place:
            return Verdict(False, place.word if place else "the host's own", name=shown), until
        return self._judge_open(address, port, protocol, names), until

    def _judge_open(
        self, address: bytes, port: int, protocol: str, names: dict[str, float]
    ) -> Verdict:
        """What is nobody's in particular: by what is public, or by name."""
        shown = next(reversed(names), "")
        for rule in self._denied_public:
            if rule.covers(port, protocol):
                return Verdict(False, f"deny {rule.text}", name=shown)
        web = self._sni and port in WEB_PORTS
        for rule in self._public:
            if rule.covers(port, protocol):
                check = web and protocol == "tcp" and bool(self._denied_names)
                return Verdict(True, rule.text, address, shown, check)
        for name in reversed(names):
            for rule in self._names.find(name):
                if rule.covers(port, protocol):
                    if web and protocol == "udp":
                        return Verdict(False, "sni", name=name)
                    return Verdict(True, rule.text, address, name, web and protocol == "tcp")
        return Verdict(False, "not listed", name=shown)

    def _judge_host(self, target: bytes, port: int, protocol: str) -> Verdict:
        if protocol == "icmp":
            return Verdict(True, "gateway", target, "host")
        for rule in self._denied_hosts:
            if rule.covers(port, protocol):
                return Verdict(False, f"deny {rule.text}", name="host")
        for rule in self._hosts:
            if rule.covers(port, protocol):
                return Verdict(True, rule.text, target, "host")
        return Verdict(False, "the host's own", name="host")

    # -- names

    def judge_name(self, name: str) -> Verdict:
        """Whether a name may be resolved at all, for any port; it may be of any spelling."""
        found = self._judged_names.get(name)
        if found is None:
            found = self._judge_name(name)
            if len(self._judged_names) >= JUDGED_MAX:
                self._judged_names.clear()
            self._judged_names[name] = found
        return found

    def _judge_name(self, text: str) -> Verdict:
        try:
            name = canonical_name(text)
        except ValueError:
            return Verdict(False, "not a name")
        for rule in self._denied_names.find(name):
            if not rule.low and not rule.protocol:
                return Verdict(False, f"deny {rule.text}", name=name)
        zone = name.rpartition(".")[2]
        for rule in self._names.find(name):
            return Verdict(True, rule.text, name=name)
        for rule in self._public:
            local = zone == name or zone in LOCAL_ZONES
            return Verdict(not local, "local" if local else rule.text, name=name)
        return Verdict(False, "not listed", name=name)

    def learn(self, name: str, addresses: Iterable[bytes], ttl: float) -> None:
        """Remember what a name that was asked for led to, for `ttl` seconds and a grace."""
        verdict = self.judge_name(name)
        if not verdict.allowed:
            return
        until = self._now() + max(ttl, TTL_MIN) + GRACE
        for raw in addresses:
            address = canonical(raw)
            if self._learned.get(address, {}).get(verdict.name, 0.0) >= until - GRACE / 2:
                continue  # an answer from the cache, again and again
            names = self._learned.pop(address, {})
            names.pop(verdict.name, None)
            names[verdict.name] = until
            if len(names) > NAMES_MAX:
                del names[next(iter(names))]
            self._learned[address] = names  # the last one to be forgotten
            if len(self._learned) > ADDRESSES_MAX:
                self._forget(next(iter(self._learned)))
            self._drop_judged(address)

    def _names_of(self, address: bytes, now: float) -> dict[str, float]:
        names = self._learned.get(address)
        if not names:
            return {}
        alive = {name: until for name, until in names.items() if until > now}
        if not alive:
            del self._learned[address]
        return alive

    def _forget(self, address: bytes) -> None:
        del self._learned[address]
        self._drop_judged(address)

    def _drop_judged(self, address: bytes) -> None:
        spellings = [address]
        if len(address) == 4:
            spellings.append(bytes(10) + b"\xff\xff" + address)
        for spelling in spellings:
            self._judged_count -= len(self._judged.pop(spelling, ()))

    # -- what a connection says itself

    def gate(self, verdict: Verdict, port: int) -> Gate | None:
        """What looks at the first bytes from the sandbox, if `verdict` is to be checked.

        It is given all of them each time: True lets them pass, False ends the connection, None
        waits for more.
        """
        if not verdict.check:
            return None

        def judge_first(data: bytes) -> bool | None:
            name = asked_name(data)
            return None if name is None else self._asks(name, port)

        return judge_first

    def _asks(self, name: str, port: int) -> bool:
        if any(rule.covers(port, "tcp") for rule in self._denied_names.find(name)):
            return False
        if any(rule.covers(port, "tcp") for rule in self._public):
            return True
        return any(rule.covers(port, "tcp") for rule in self._names.find(name))

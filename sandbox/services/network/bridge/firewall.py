"""The table `inet sbx`: all that netfilter does for the networks, made from their files.

`ruleset` says what the table has to hold, as a whole; `apply` has the nft program put it in place
of the one before, in one transaction. So what is there never depends on what was there, and nothing
outside of the table is touched. The program and not netlink: intervals, concatenations and maps are
its own work, and a run without published ports or rules of its own needs none of it.
"""

from __future__ import annotations

import errno
import time

from sandbox.errors import HostError, SetupError
from sandbox.linux import netlink, nftables
from sandbox.linux.programs import find_program, run_program
from sandbox.policy.egress import show_address
from sandbox.services.network.bridge.egress import ECHO, NUMBERS, REJECT, chain, has_host
from sandbox.services.network.bridge.subnets import EVERYWHERE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandbox.services.network.bridge.definitions import Definition
    from sandbox.services.network.bridge.leases import Lease

TABLE = "sbx"


def ruleset(
    networks: Sequence[Definition], leases: Sequence[Lease], forwarding_before: tuple[bool, bool]
) -> str:
    """The table as nft(8) reads it; "" when there is nothing to hold.

    `leases`: those that have ports or rules. `forwarding_before`: whether the host forwarded IPv4
    and IPv6 before sbx had it do so; what is not the networks' own is dropped where it did not.
    """
    if not networks:
        return ""
    bridges = _set(f'"{each.bridge}"' for each in networks)
    parts = [
        f'table inet {TABLE} {{\ncomment "networks of sbx, see: sbx network ls"',
        *_guard(networks, leases, bridges),
        *(line for lease in leases if lease.allow for line in _sandbox(lease)),
        *_input(networks, leases, bridges),
        *_forward(networks, leases, bridges, forwarding_before),
        *_nat(networks, leases, bridges),
        "}",
    ]
    return "\n".join(parts) + "\n"


def _set(items: Iterable[str]) -> str:
    return f"{{ {', '.join(items)} }}"


def _base(name: str, kind: str, hook: str, priority: int, rules: Iterable[str]) -> list[str]:
    head = f"type {kind} hook {hook} priority {priority}; policy accept;"
    return [f"chain {name} {{", head, *rules, "}"]


def _own(network: Definition) -> list[tuple[str, str, str]]:
    """(family, subnet, gateway) of each family."""
    v6 = network.v6
    found = [("ip", network.subnet4, show_address(network.v4.address(1)))]
    return found + ([("ip6", network.subnet6, show_address(v6.address(1)))] if v6 else [])


def _guard(networks: Sequence[Definition], leases: Sequence[Lease], bridges: str) -> list[str]:
    """What comes from a sandbox has an address of its network, and never one that is judged as
    another sandbox."""
    rules = [f"iifname {bridges} ip daddr 127.0.0.0/8 drop"]
    for network in networks:
        for family, subnet, _ in _own(network):
            ours = f"{subnet}, fe80::/10, ::" if family == "ip6" else f"{subnet}, 0.0.0.0"
            rules.append(f'iifname "{network.bridge}" {family} saddr != {{ {ours} }} drop')
        if not network.v6:
            rules.append(f'iifname "{network.bridge}" ip6 saddr != {{ fe80::/10, :: }} drop')
    for lease in leases:
        # IPV6_FREEBIND gives any program any source; the cable's own address needs a capability.
        for family, address in _addresses(lease) if lease.allow else ():
            of = f'iifname "{lease.network.bridge}" {family} saddr {address}'
            rules.append(f"{of} ether saddr != {lease.mac.hex(':')} drop")
    return _base("guard", "filter", "prerouting", -300, rules)


def _input(networks: Sequence[Definition], leases: Sequence[Lease], bridges: str) -> list[str]:
    """Of the host itself, a sandbox reaches ping, the gateway's name service, and what it may."""
    rules = [
        f"iifname != {bridges} accept",
        "ct state established,related accept",
        f"meta l4proto {{ {ECHO} }} accept",
    ]
    for network in networks:
        for family, _, gateway in _own(network):
            to = f'iifname "{network.bridge}" {family} daddr {gateway}'
            rules.append(f"{to} meta l4proto {{ 6, 17 }} th dport 53 accept")
            some = [each for each in leases if each.network == network and has_host(each.allow)]
            for jump in _jumps(some, family):
                rules.append(f"{family} daddr {gateway} {jump}")
    return _base("input", "filter", "input", 0, [*rules, REJECT])


def _forward(
    networks: Sequence[Definition],
    leases: Sequence[Lease],
    bridges: str,
    before: tuple[bool, bool],
) -> list[str]:
    stranger = f"iifname != {bridges} oifname != {bridges}"
    rules = [
        f"meta nfproto {family} {stranger} drop"
        for family, was in zip(("ipv4", "ipv6"), before, strict=True)
        if not was
    ]
    rules += [f"{stranger} accept", "ct state established,related accept"]
    for network in networks:
        name = f'"{network.bridge}"'
        if network.internal:
            rules.append(f"iifname {name} oifname != {name} {REJECT}")
            rules.append(f"iifname != {name} oifname {name} drop")
    for network in networks:
        within = f'iifname "{network.bridge}" oifname "{network.bridge}"'
        rules.append(f"{within} ct status dnat accept")
        rules.append(f"{within} {REJECT if network.isolate else 'accept'}")
    rules.append(f"iifname != {bridges} ct status dnat accept")
    # Of another network only what it publishes; all else is the world.
    rules += [
        f"iifname {bridges} oifname {bridges} ct status dnat goto judge",
        f"iifname {bridges} oifname != {bridges} goto judge",
        f"iifname {bridges} {REJECT}",
        "drop",
    ]
    judge = ["chain judge {", *_jumps(leases, "ip", "ip6"), REJECT, "}"]
    return [*judge, *_base("forward", "filter", "forward", 0, rules)]


def _jumps(leases: Sequence[Lease], *families: str) -> list[str]:
    """Each sandbox that may reach something to its own chain, by its address."""
    found: dict[str, list[str]] = {family: [] for family in families}
    for lease in leases:
        for family, address in _addresses(lease) if lease.allow else ():
            if family in found:
                found[family].append(f"{address} : jump {_chain(lease)}")
    return [f"{family} saddr vmap {_set(jumps)}" for family, jumps in found.items() if jumps]


def _addresses(lease: Lease) -> list[tuple[str, str]]:
    six = lease.address6
    return [("ip", show_address(lease.address4)), *([("ip6", show_address(six))] if six else [])]


def _chain(lease: Lease) -> str:
    return f"of_{lease.link}"


def _sandbox(lease: Lease) -> list[str]:
    gateways = lease.network.gateways
    return chain(_chain(lease), lease.allow, lease.deny, gateways, lease.learned, time.time())


def _nat(networks: Sequence[Definition], leases: Sequence[Lease], bridges: str) -> list[str]:
    published = _published(leases)
    rules = [f"ip saddr 127.0.0.0/8 oifname {bridges} masquerade"]
    rules.append(f"ip6 saddr ::1 oifname {bridges} masquerade")
    for network in networks:
        for family, subnet, _ in _own(network):
            rules.append(
                f"{family} saddr {subnet} {family} daddr {subnet} ct status dnat masquerade"
            )
            if not network.internal:
                rules.append(f"{family} saddr {subnet} oifname != {bridges} masquerade")
    return [
        *_base("prerouting", "nat", "prerouting", -100, published),
        *_base("output", "nat", "output", -100, published),
        *_base("postrouting", "nat", "postrouting", 100, rules),
    ]


def _published(leases: Sequence[Lease]) -> list[str]:
    """Ports of certain addresses before those of all that the host has."""
    tables: dict[tuple[str, bool], list[str]] = {}
    for lease in leases:
        for family, address in _addresses(lease):
            for port in lease.ports:
                if (":" in port.address) != (family == "ip6"):
                    continue
                every = port.address in EVERYWHERE
                key = f"{NUMBERS[port.protocol]} . {port.port}"
                key = key if every else f"{port.address} . {key}"
                tables.setdefault((family, every), []).append(f"{key} : {address} . {port.inner}")
    rules = []
    for (family, every), entries in sorted(tables.items(), key=lambda each: each[0][1]):
        only = f"meta nfproto {'ipv6' if family == 'ip6' else 'ipv4'}"
        where = "fib daddr type local" if every else ""
        key = "" if every else f"{family} daddr . "
        to = f"dnat {family} to {key}meta l4proto . th dport map {_set(entries)}"
        rules.append(f"{only} {where} {to}")
    return rules


def is_there() -> bool:
    """Whether the kernel has the table."""
    try:
        netlink.ask(netlink.NETFILTER, netlink.numbered([nftables.get_table(nftables.INET, TABLE)]))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):
            return False
        raise SetupError("cannot look at netfilter", cause=str(error.strerror).lower()) from error
    return True


def apply(text: str) -> None:
    """Have the table hold this and nothing else. Raises SbxError, with nothing changed."""
    program = find_program("nft")
    if program is None:
        raise HostError(
            "cannot set up the networks' firewall",
            cause="the program nft is not installed",
            hint="install the package nftables",
        )
    # Making it first is how deleting it cannot fail.
    start = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
    code, said = run_program(program, "-f", "-", text=start + text)
    if code:
        lines = [line for line in said.splitlines() if "Error: " in line] or said.splitlines()
        cause = lines[0].rpartition("Error: ")[2] if lines else f"exit code {code}"
        hint = next((hint for words, hint in _HINTS if words in cause), "")
        raise SetupError("cannot set up the networks' firewall", cause=f"nft: {cause}", hint=hint)


_LACKS = "the kernel needs nf_tables with nat, masquerade and fib: see sbx doctor"
# By what nft says, in English: most are the kernel's words.
_HINTS = (
    ("No such file or directory", _LACKS),
    ("Operation not supported", _LACKS),
    ("Operation not permitted", "root of a container needs CAP_NET_ADMIN over its network"),
    ("syntax error", "install a newer nftables: see nft --version"),
)

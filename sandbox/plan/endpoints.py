"""The network inside of a sandbox in user mode: its addresses, and the ends that are handed out.

The default routes lead into a TUN device, whose other end a process beside the sandbox holds. Of
TCP only what asks for a connection goes there, a bare SYN. All else is marked, turned back to lo
and given to a transparent listener of that process; a connection that it lets through begins when
it sends the SYN once more, marked. So the kernel's TCP is at both ends, and what is judged is the
one packet that asks. A payload that could change these rules would end at the TUN.

Without a TUN the default routes lead to lo, and every connection is accepted before it is judged.
"""

from __future__ import annotations

from struct import pack

from sandbox.errors import HostError
from sandbox.linux import netlink, nftables
from sandbox.plan import ops
from sandbox.plan.request import Degradation, Step, give_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.host.network import NetworkFacts
    from sandbox.policy.model import Policy

NETWORK4, NETWORK6 = bytes([10, 0, 2, 0]), bytes.fromhex("fd000073627800000000000000000000")
BITS4, BITS6 = 24, 64
SANDBOX4, GATEWAY4, DNS4 = (NETWORK4[:3] + bytes([last]) for last in (100, 2, 3))
SANDBOX6, GATEWAY6, DNS6 = (NETWORK6[:14] + last.to_bytes(2, "big") for last in (0x100, 2, 3))
DEVICE = "tun0"

_INDEX = 64  # of the device: free in every new namespace, so that messages can name it beforehand
_MARK, _TABLE = 1, 100
# Where the listeners are: addresses of lo that nothing else uses, so that the payload has all
# ports but this one on ::1 for itself.
_LISTENER4, _LISTENER6, _PORT = bytes([127, 83, 98, 1]), bytes(15) + b"\1", 1
_BACKLOG = 4096

_TUN_FLAGS = 0x1 | 0x1000 | 0x4000  # IFF_TUN, IFF_NO_PI, IFF_VNET_HDR
_OFFLOADS = 0x1 | 0x2 | 0x4  # TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6
_INET, _INET6, _STREAM, _DGRAM, _RAW = 2, 10, 1, 2, 3
_IPPROTO_TCP, _IPPROTO_RAW, _NODELAY = 6, 255, 1
_SOCKET, _SO_MARK = 1, 36
_IP, _IP_TRANSPARENT = 0, 19
_IPV6, _IPV6_V6ONLY, _IPV6_TRANSPARENT = 41, 26, 75
_TCP = b"\6"
_SYN_BITS, _SYN = b"\x17", b"\2"  # of FIN, SYN, RST, ACK
_NOBODY = 2  # a port of the listeners' addresses where no transparent socket is


def names(facts: NetworkFacts) -> tuple[str, ...]:
    """What the descriptors are that are handed out, in their order."""
    families = ("4",) if facts.ipv6_error else ("4", "6")
    if facts.tun_error:
        kinds = [f"{kind}{family}" for family in families for kind in ("tcp", "seed")]
        return (*kinds, *(f"dns{family}u" for family in families))
    return ("tun", *(f"{kind}{family}" for family in families for kind in ("tcp", "raw", "seed")))


def addresses(facts: NetworkFacts) -> tuple[bytes, ...]:
    """Sandbox, gateway, name server; then the same for IPv6, b"" without it."""
    six = (b"", b"", b"") if facts.ipv6_error else (SANDBOX6, GATEWAY6, DNS6)
    return (SANDBOX4, GATEWAY4, DNS4, *six)


def files() -> tuple[tuple[str, bytes], ...]:
    """The files inside by which names are found."""
    gateway, server = (".".join(map(str, address)) for address in (GATEWAY4, DNS4))
    return (
        ("/etc/resolv.conf", f"nameserver {server}\n".encode()),
        ("/etc/hosts", f"{gateway} host host.internal\n".encode()),
    )


def endpoint_steps(policy: Policy, facts: NetworkFacts, lost: list[Degradation]) -> Iterator[Step]:
    """The device, addresses, routes, rules and sockets. Raises HostError for what is missing."""
    if facts.tproxy_error:
        raise HostError(
            "cannot make a network in user mode",
            cause=facts.tproxy_error,
            hint="an administrator may load nf_tables and nft_tproxy; or use --network none",
        )
    if facts.tun_error:
        what = "the difference between refused and accepted connections, ping and UDP but for DNS"
        hint = 'an administrator may load tun; or use a policy with on_missing.network = "degrade"'
        missing = Degradation("network", what, facts.tun_error)
        lost.append(give_up(policy, missing, "cannot make a TUN device", hint))
    if facts.ipv6_error:
        lost.append(Degradation("network", "IPv6 inside", facts.ipv6_error, quiet=True))
    origin = policy.origin("network.mode")
    yield Step(ops.Loopback(), origin)
    if not facts.tun_error:
        yield Step(ops.Tun(DEVICE, _TUN_FLAGS, _INDEX, _OFFLOADS), origin)
    for step in (_ways(policy.network.mtu, facts), _rules(facts), *_sockets(facts)):
        yield Step(step, origin)


def _talk(what: str, protocol: int, *messages: bytes) -> ops.Netlink:
    batch = netlink.numbered(messages)
    return ops.Netlink(what, protocol, netlink.acknowledged(batch), batch)


def _families(facts: NetworkFacts) -> tuple[int, ...]:
    return (4,) if facts.ipv6_error else (4, 16)


def _ways(mtu: int, facts: NetworkFacts) -> ops.Netlink:
    own = netlink.LOOPBACK if facts.tun_error else _INDEX
    messages = [] if facts.tun_error else [netlink.set_link(own, mtu=mtu)]
    for size in _families(facts):
        address, bits = (SANDBOX4, BITS4) if size == 4 else (SANDBOX6, BITS6)
        everything = bytes(size)
        if facts.tun_error:
            messages.append(netlink.add_address(own, DNS4 if size == 4 else DNS6, 8 * size))
            bits = 8 * size
        messages += [
            netlink.add_address(own, address, bits),
            netlink.add_route(everything, 0, index=own, source=address),
            netlink.add_mark_rule(_MARK, _TABLE, ipv6=size == 16),
            netlink.add_route(
                everything, 0, index=netlink.LOOPBACK, table=_TABLE, kind=netlink.LOCAL
            ),
        ]
    shown = "10.0.2.100" if facts.ipv6_error else "10.0.2.100 and fd00:73:6278::100"
    where = "lo" if facts.tun_error else DEVICE
    return _talk(f"give {where} {shown}, and lead all that leaves there", netlink.ROUTE, *messages)


def _rules(facts: NetworkFacts) -> ops.Netlink:
    inet, table = nftables.INET, "sbx"
    tcp = nftables.matches(nftables.load_meta(nftables.META_L4PROTO), _TCP)
    # While an accepted connection takes the place of its request, a look-up can miss both. Given to
    # the listener, its segment would be answered by a reset; dropped, it is sent again.
    missed = (*tcp, *_where_from(), *_without_syn(), nftables.verdict(nftables.DROP))
    drop = nftables.rule(inet, table, "prerouting", *missed)
    stand: list[bytes] = []
    begin: list[bytes] = []
    out: list[bytes] = []
    for size in _families(facts):
        family = nftables.IPV4 if size == 4 else nftables.IPV6
        of_family = nftables.matches(nftables.load_meta(nftables.META_NFPROTO), bytes([family]))
        listener = _LISTENER4 if size == 4 else _LISTENER6
        arrives = (*of_family, *tcp, *_where_from())
        for rules, which, port in ((stand, _without_syn(), _NOBODY), (begin, (), _PORT)):
            given = (
                *nftables.transparent(family, listener, port),
                nftables.verdict(nftables.ACCEPT),
            )
            rules.append(nftables.rule(inet, table, "prerouting", *arrives, *which, *given))
        leaves = (*tcp, *_not_inside(size, facts), *nftables.set_mark(_MARK))
        if facts.tun_error:
            leaves = (*of_family, *leaves)
        if facts.tun_error or size == 4:
            out.append(nftables.rule(inet, table, "output", *leaves))
    chains = (
        nftables.chain(
            inet, table, "output", kind="route", hook=nftables.OUTPUT, priority=nftables.MANGLE
        ),
        nftables.chain(
            inet,
            table,
            "prerouting",
            kind="filter",
            hook=nftables.PREROUTING,
            priority=nftables.MANGLE,
        ),
    )
    messages = nftables.transaction(
        nftables.table(inet, table), *chains, *stand, drop, *begin, *out
    )
    what = "turn TCP that leaves back to a transparent listener"
    return _talk(what, netlink.NETFILTER, *messages)


def _where_from() -> tuple[bytes, ...]:
    """What was marked and turned back, and nothing that came in by the device."""
    return (
        *nftables.matches(nftables.load_meta(nftables.META_IIF), pack("=I", netlink.LOOPBACK)),
        *nftables.matches(nftables.load_meta(nftables.META_MARK), pack("=I", _MARK)),
    )


def _without_syn() -> tuple[bytes, ...]:
    """What belongs to a connection that there is; it is given to its socket, if that is found."""
    return (
        nftables.load_payload(nftables.TRANSPORT, 13, 1),
        nftables.mask(_SYN),
        nftables.compare(nftables.EQ, b"\0"),
    )


def _not_inside(size: int, facts: NetworkFacts) -> tuple[bytes, ...]:
    """What leaves the sandbox; with a device a bare SYN goes there, to be judged first."""
    if not facts.tun_error:
        elsewhere = nftables.matches(
            nftables.load_meta(nftables.META_OIF), pack("=I", netlink.LOOPBACK), nftables.NEQ
        )
        flags = (
            nftables.load_payload(nftables.TRANSPORT, 13, 1),
            nftables.mask(_SYN_BITS),
            nftables.compare(nftables.NEQ, _SYN),
        )
        return (*elsewhere, *flags)
    destination = nftables.load_payload(nftables.NETWORK, 16 if size == 4 else 24, size)
    own = (SANDBOX4,) if size == 4 else (SANDBOX6, bytes(15) + b"\1")
    inside = [nftables.matches(destination, address, nftables.NEQ) for address in own]
    if size == 4:
        first = nftables.load_payload(nftables.NETWORK, 16, 1)
        inside.append(nftables.matches(first, bytes([127]), nftables.NEQ))
    return tuple(part for pair in inside for part in pair)


def _sockaddr(address: bytes, port: int) -> bytes:
    """A sockaddr_in or sockaddr_in6, by the length of the address."""
    if len(address) == 4:
        return pack("=H", _INET) + port.to_bytes(2, "big") + address + bytes(8)
    return pack("=H", _INET6) + port.to_bytes(2, "big") + bytes(4) + address + bytes(4)


def _sockets(facts: NetworkFacts) -> Iterator[ops.Socket]:
    questions = []
    for size in _families(facts):
        four = size == 4
        family, name = (_INET, "IPv4") if four else (_INET6, "IPv6")
        alone = () if four else (_IPV6, _IPV6_V6ONLY, 1)
        transparent = (_IP, _IP_TRANSPARENT, 1) if four else (_IPV6, _IPV6_TRANSPARENT, 1)
        options = (*alone, *transparent, _IPPROTO_TCP, _NODELAY, 1)
        at = _sockaddr(_LISTENER4 if four else _LISTENER6, _PORT)
        what = f"listen for connections that leave by {name}"
        yield ops.Socket(what, family, _STREAM, 0, options, at, _BACKLOG)
        if not facts.tun_error:
            what = f"open a socket that completes connections by {name}"
            mark = (_SOCKET, _SO_MARK, _MARK)
            yield ops.Socket(what, family, _RAW, _IPPROTO_RAW, mark, b"", 0)
        what = f"open a socket for published ports by {name}"
        yield ops.Socket(what, family, _STREAM, 0, alone, b"", 0)
        at = _sockaddr(DNS4 if four else DNS6, 53)
        what = f"listen for questions to the name server by {name}"
        questions.append(ops.Socket(what, family, _DGRAM, 0, alone, at, 0))
    if facts.tun_error:
        yield from questions

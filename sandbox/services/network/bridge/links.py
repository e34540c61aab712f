"""Bridges and cables as links of the kernel's, by netlink. Nothing is kept here."""

from __future__ import annotations

import errno

from sandbox.errors import HostError, SetupError
from sandbox.linux import netlink
from sandbox.linux.netlink import ROUTE, Link, ask, attribute, numbered
from sandbox.services.network.bridge.subnets import Subnet, mac_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.services.network.bridge.definitions import Definition
    from sandbox.services.network.bridge.leases import Lease

INSIDE = "eth0"
_ADDRESS, _MTU, _MASTER, _ALIAS = 1, 4, 10, 20  # IFLA_*
_PEER_PID = 19  # IFLA_NET_NS_PID


def alias(definition: Definition) -> str:
    """What the kernel keeps with a bridge of ours; a bridge without it is somebody else's."""
    return f"sbx network {definition.name}"


def find(name: str) -> Link | None:
    """The link with this name, in this network namespace."""
    try:
        answer = ask(ROUTE, numbered([netlink.get_link(name)]))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise _refused(f"cannot look for the link {name}", error) from error
    return netlink.link(answer[0][1])


def everyone() -> list[Link]:
    """All links of this network namespace."""
    answer = ask(ROUTE, numbered([netlink.dump_links()]))
    return [netlink.link(body) for kind, body in answer if kind == netlink.NEWLINK]


def find_bridge(definition: Definition) -> Link | None:
    """The bridge of a network, None when it is not up. Raises HostError when it is not ours."""
    found = find(definition.bridge)
    if found and (found.kind != "bridge" or found.alias != alias(definition)):
        raise HostError(
            f'cannot bring up the network "{definition.name}"',
            cause=f"there is a link {definition.bridge} that sbx has not made",
            hint=f"remove it (ip link del {definition.bridge}), or use another network: "
            "sbx network create NAME",
        )
    return found


def used_subnets(but: int = 0) -> list[Subnet]:
    """What the host's routes lead to, its own addresses with them, except by link `but`."""
    answer = ask(ROUTE, numbered([netlink.dump_routes()]))
    return [
        Subnet(destination, prefix)
        for destination, prefix, _table, index in netlink.routes(answer)
        if prefix and destination and index != but
    ]


def make_bridge(definition: Definition) -> None:
    """Make the bridge with its addresses. Raises SetupError with nothing made."""
    name = definition.bridge
    mac = attribute(_ADDRESS, mac_address(definition.gateways[0]))
    batch = [
        netlink.new_link(name, "bridge", attributes=mac + netlink.u32(_MTU, definition.mtu)),
        netlink.set_link(
            0, name=name, up=False, attributes=netlink.text(_ALIAS, alias(definition))
        ),
    ]
    try:
        ask(ROUTE, numbered(batch))
        found = find(name)
        index = found.index if found else 0
        subnets = [definition.v4, *([definition.v6] if definition.v6 else [])]
        batch = [netlink.add_address(index, each.address(1), each.prefix) for each in subnets]
        ask(ROUTE, numbered([*batch, netlink.set_link(index)]))
    except SetupError:
        remove(name)
        raise
    except OSError as error:
        remove(name)
        raise _refused(f"cannot make the bridge {name}", error) from error


def remove(name: str) -> None:
    """Remove a link, a cable with both ends, when it is there. Raises SetupError."""
    try:
        ask(ROUTE, numbered([netlink.delete_link(name)]))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise _refused(f"cannot remove the link {name}", error) from error


def plug(lease: Lease, bridge: Link, pid: int) -> int:
    """Lay the cable from the bridge to the network namespace of a process.

    Returns the index of the host's end. Raises SetupError.
    """
    peer = netlink.u32(_PEER_PID, pid)
    data = netlink.veth_peer(INSIDE, attributes=peer + attribute(_ADDRESS, lease.mac))
    own = netlink.u32(_MTU, lease.network.mtu) + netlink.u32(_MASTER, bridge.index)
    batch = [netlink.new_link(lease.link, "veth", data=data, attributes=own)]
    try:
        try:
            ask(ROUTE, numbered(batch))
        except OSError as error:
            # Of a namespace that somebody keeps although its sandbox is dead.
            if error.errno != errno.EEXIST:
                raise
            remove(lease.link)
            ask(ROUTE, numbered(batch))
        found = find(lease.link)
        index = found.index if found else 0
        # With br_netfilter a packet for a published port of the sender turns round in the bridge.
        port = netlink.set_bridge_port(index, hairpin=True, isolated=lease.network.isolate)
        batch = [port, netlink.set_link(index)]
        ask(ROUTE, numbered(batch))
        return index
    except SetupError:
        raise
    except OSError as error:
        raise _refused(f"cannot plug the sandbox into {lease.network.bridge}", error) from error


def configure(lease: Lease, over: int) -> int:
    """Give the sandbox's end its addresses and routes, by a socket of its network namespace.

    Returns its index there. Raises SetupError.
    """
    network = lease.network
    try:
        answer = ask(ROUTE, numbered([netlink.get_link(INSIDE)]), over=over)
        index = netlink.link(answer[0][1]).index
        pairs = [(lease.address4, network.v4)]
        if network.v6:
            pairs.append((network.v6.address(lease.number), network.v6))
        batch = [netlink.add_address(index, own, subnet.prefix) for own, subnet in pairs]
        batch.append(netlink.set_link(index, mtu=network.mtu))
        if not network.internal:
            for own, subnet in pairs:
                everything, gateway = bytes(len(own)), subnet.address(1)
                batch.append(netlink.add_route(everything, 0, index=index, gateway=gateway))
        ask(ROUTE, numbered(batch), over=over)
        return index
    except OSError as error:
        raise _refused("cannot set up the sandbox's end of the network", error) from error


def _refused(what: str, error: OSError) -> SetupError:
    said = f" ({error.filename})" if error.filename else ""
    cause = f"{(error.strerror or '').lower()}{said}"
    hint = ""
    if error.errno == errno.EOPNOTSUPP:
        hint = "the kernel lacks bridge or veth: see sbx doctor"
    return SetupError(what, cause=cause, hint=hint, errno=error.errno or 0, phase="network")

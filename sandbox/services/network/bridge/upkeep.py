"""What becomes of networks: made, brought up, swept, taken down. All of it under the gate."""

from __future__ import annotations

import os

from sandbox.errors import HostError, SbxError, StateError
from sandbox.policy.egress import show_address
from sandbox.services.network.bridge import firewall, links, names, settings
from sandbox.services.network.bridge.definitions import (
    DEFAULT,
    DEFAULT_BRIDGE,
    Definition,
    forget,
    load,
    load_all,
    save,
)
from sandbox.services.network.bridge.leases import all_leases, dead, drop, living, retire, retired
from sandbox.services.network.bridge.subnets import Subnet, free_subnet, local_subnet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.linux.netlink import Link
    from sandbox.services.network import Tell
    from sandbox.services.network.bridge.leases import Lease

_CHANCE_BYTES = 5
_LATE_S = 5.0


def define(
    name: str, subnets: tuple[Subnet, ...] = (), *, ipv6: bool = True, **more: object
) -> Definition:
    """Make up a network and write it down; what `subnets` (each has passed `check_subnet`) does not
    say is chosen. Raises StateError where there is one of this name, HostError for what is in use.
    """
    if load(name) is not None:
        raise StateError(
            f'there is a network "{name}" already', hint=f"see it with: sbx network inspect {name}"
        )
    others = load_all()
    taken = [*links.used_subnets(), *(s for each in others for s in (each.v4, each.v6) if s)]
    for subnet in subnets:
        clash = next((other for other in taken if subnet.overlaps(other)), None)
        if clash:
            raise _conflict(name, subnet, clash, others)
    given4 = next((s for s in subnets if len(s.base) == 4), None)
    given6 = next((s for s in subnets if len(s.base) == 16), None)
    v4 = given4 or free_subnet(taken)
    if v4 is None:
        raise HostError(
            f'cannot make the network "{name}"',
            cause="every subnet of 10.73.0.0/16 is in use on this host",
            hint="choose one with --subnet, or remove networks: sbx network prune",
        )
    v6 = given6 or (local_subnet(os.urandom(_CHANCE_BYTES)) if ipv6 and has_ipv6() else None)
    bridge = DEFAULT_BRIDGE if name == DEFAULT else _free_bridge(others)
    text6 = v6.text if v6 else ""
    made = Definition(name, bridge, v4.text, text6, **more)  # type: ignore[arg-type]
    links.find_bridge(made)  # or it is somebody else's
    save(made)
    return made


def has_ipv6() -> bool:
    """Whether links of this host have IPv6."""
    try:
        with open("/proc/sys/net/ipv6/conf/default/disable_ipv6") as file:
            return file.read().strip() == "0"
    except OSError:
        return False


def _free_bridge(others: list[Definition]) -> str:
    used = {each.bridge for each in others} | {each.name for each in links.everyone()}
    number = 1
    while f"sbx{number}" in used:
        number += 1
    return f"sbx{number}"


def _conflict(name: str, subnet: Subnet, clash: Subnet, others: list[Definition]) -> HostError:
    owner = next((o.name for o in others if clash.text in (o.subnet4, o.subnet6)), "")
    whose = f'the network "{owner}"' if owner else "a route of this host"
    return HostError(
        f'cannot use {subnet.text} for the network "{name}"',
        cause=f"{clash.text} is in use by {whose}",
        hint="choose another --subnet, or leave it out",
    )


def find(name: str) -> Definition:
    """The network with this name; the default one is made when it is not there."""
    found = load(name)
    if found is None and name == DEFAULT:
        return define(name)
    if found is None:
        raise StateError(
            f'no network "{name}"',
            cause="none has this name",
            hint=f"see which there are: sbx network ls; make it: sbx network create {name}",
        )
    return found


def bring_up(network: Definition, tell: Tell) -> Link:
    """Have its bridge, the firewall and the settings there, as far as they are not.

    Raises SbxError with nothing half made.
    """
    bridge = links.find_bridge(network)
    if bridge and firewall.is_there():
        return bridge
    made = bridge is None
    if made:
        _check_free(network)
        links.make_bridge(network)
    try:
        # A packet for 127.0.0.1 may come out of this bridge, which `guard` of the table keeps in.
        settings.write(f"ipv4/conf/{network.bridge}/route_localnet", "1")
        refresh()
        families = ("ipv4", "ipv6") if network.subnet6 else ("ipv4",)
        for changed in settings.forward(() if network.internal else families):
            tell(
                f"{changed} is 1 now",
                "sandboxes of a network need it; other packets are not forwarded, and "
                '"sbx network prune" puts it back',
            )
    except BaseException:
        if made:
            links.remove(network.bridge)
            _settle()
        raise
    found = links.find_bridge(network)
    if found is None:
        raise StateError(f"the bridge {network.bridge} is gone", cause="somebody has removed it")
    return found


def _check_free(network: Definition) -> None:
    for used in links.used_subnets():
        for subnet in (network.v4, network.v6):
            if subnet and subnet.overlaps(used):
                raise _conflict(network.name, subnet, used, [])


def up() -> list[Definition]:
    """The networks whose bridges are there."""
    present = {each.name: each for each in links.everyone()}
    return [
        each
        for each in load_all()
        if (link := present.get(each.bridge)) and link.alias == links.alias(each)
    ]


def refresh() -> None:
    """Have the firewall hold what the files say. Raises SbxError."""
    networks = up()
    if not networks and not firewall.is_there():
        return
    found = [lease for each in networks for lease in living(each) if lease.in_firewall]
    firewall.apply(firewall.ruleset(networks, found, settings.forwarded_before()))


def _settle() -> None:
    """Have the table and the settings as the networks that are up need them."""
    if firewall.is_there():
        refresh()
    if not up():
        settings.restore()


def unplug(lease: Lease) -> None:
    """End a lease after its sandbox, without waiting for the kernel, which takes the cable up with
    the network namespace: removing it costs more than all that a start does for the network."""
    if links.find(lease.link):
        retire(lease)
    else:
        drop(lease)


def sweep(network: Definition, *, all_cables: bool = False) -> list[str]:
    """Take back what dead sandboxes have left on it; what it was, one line each.

    `all_cables`: also those that the kernel may only be late with.
    """
    for lease, age_s in retired(network):
        if all_cables or age_s > _LATE_S:
            links.remove(lease.link)
        elif links.find(lease.link):
            continue
        drop(lease)
    removed = []
    stale = False
    for lease in dead(network):
        links.remove(lease.link)
        stale = stale or lease.in_firewall
        drop(lease)
        removed.append(f"the address of {lease.names[0]}" if lease.names else lease.link)
    if stale:
        refresh()
    return removed


def take_down(network: Definition) -> None:
    """Remove what the kernel holds of an unused network. Raises SbxError."""
    in_use = living(network)
    if in_use:
        who = ", ".join(lease.names[0] if lease.names else str(lease.number) for lease in in_use)
        raise StateError(
            f'the network "{network.name}" is in use',
            cause=f"by {who}",
            hint="end these sandboxes first",
        )
    names.end(network)
    sweep(network, all_cables=True)
    if links.find_bridge(network):
        links.remove(network.bridge)
    _settle()


def remove(name: str) -> None:
    """Remove a network. Raises StateError when it is in use, SbxError."""
    try:
        network = load(name)
    except StateError:
        forget(name)
        return
    if network is None:
        if name != DEFAULT:
            find(name)  # which says what there is instead
        return
    try:
        take_down(network)
    except HostError:  # a bridge of somebody else's in its place is left alone
        pass
    forget(name)


def prune(tell: Callable[[str], None]) -> None:
    """Remove everything that no living sandbox uses; `tell` hears the name of each network."""
    problems = []
    for network in load_all():
        if living(network):
            sweep(network, all_cables=True)
            continue
        try:
            remove(network.name)
            tell(network.name)
        except SbxError as error:
            problems.append(f"{error.what}: {error.cause}")
    _settle()
    if problems:
        raise StateError("cannot remove every network", problems=tuple(problems))


def describe(network: Definition) -> dict[str, object]:
    """Everything that is known of a network, for JSON."""
    bridge = links.find(network.bridge)
    ours = bridge is not None and bridge.alias == links.alias(network)
    found: dict[str, object] = {
        **dict(network),
        "gateways": [show_address(each) for each in network.gateways],
        "up": ours,
    }
    sandboxes = []
    for lease, lives in all_leases(network):
        if lives:
            addresses = [a for a in (lease.address4, lease.address6) if a]
            sandboxes.append(
                {
                    "name": lease.names[0] if lease.names else "",
                    "aliases": list(lease.names[1:]),
                    "addresses": [show_address(each) for each in addresses],
                    "mac": lease.mac.hex(":"),
                    "link": lease.link,
                    "published": [port.as_dict() for port in lease.ports],
                }
            )
    found["sandboxes"] = sandboxes
    return found

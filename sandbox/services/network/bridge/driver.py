"""One sandbox on a network: its address before the plan, its cable while it is held."""

from __future__ import annotations

import os

from sandbox.policy.egress import show_address
from sandbox.services.network import Network
from sandbox.services.network.bridge import definitions, links, names, upkeep
from sandbox.services.network.bridge.definitions import DEFAULT, Gate
from sandbox.services.network.bridge.leases import drop, take
from sandbox.services.network.bridge.ports import choose_ports
from sandbox.services.network.bridge.shaping import Shape, shape
from sandbox.services.network.ports import record_ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.linux.netlink import Link
    from sandbox.policy.model import Network as Wanted
    from sandbox.policy.model import Policy
    from sandbox.services.network import Tell
    from sandbox.services.network.bridge.definitions import Definition
    from sandbox.services.network.bridge.leases import Lease


class Bridged(Network):
    """A place on a network, held by a locked file."""

    def __init__(self, lease: Lease, lock: int, bridge: Link, shape: Shape) -> None:
        self._shape = shape
        self._lease = lease
        self._lock = lock
        self._bridge = bridge
        self.files = _files(lease)

    def record(self, folder: int) -> None:
        """The ports, for others."""
        record_ports(folder, self._lease.ports)

    def share(self) -> tuple[int, ...]:
        """The lock of the lease."""
        return (os.dup(self._lock),)

    def connect(self, pid: int, descriptors: tuple[int, ...]) -> None:
        """Lay the cable and set up the sandbox's end."""
        try:
            outside = links.plug(self._lease, self._bridge, pid)
            inside = links.configure(self._lease, descriptors[0])
            shape(inside, self._shape, over=descriptors[0])
            shape(outside, Shape(self._shape.rate))
        finally:
            for fd in descriptors:
                os.close(fd)

    def close(self, *, living: bool) -> None:
        """Give the address back, or leave it to the sandbox."""
        try:
            if not living:
                with Gate():
                    upkeep.unplug(self._lease)
                    if self._lease.in_firewall:
                        upkeep.refresh()
        finally:
            os.close(self._lock)


def _files(lease: Lease) -> tuple[tuple[str, bytes], ...]:
    own = " ".join(lease.names)
    addresses = [each for each in (lease.address4, lease.address6) if each]
    hosts = "".join(f"{show_address(each)} {own}\n" for each in addresses)
    resolver = f"nameserver {show_address(lease.network.gateways[0])}\n"
    return ("/etc/hosts", hosts.encode()), ("/etc/resolv.conf", resolver.encode())


def _shape(wanted: Wanted, network: Definition) -> Shape:
    """What the sandbox asks for, else what the network has."""
    return Shape(
        wanted.rate or network.rate, wanted.delay or network.delay, wanted.loss or network.loss
    )


def prepare(policy: Policy, name: str, tell: Tell) -> Bridged:
    """Take an address on the policy's network, which comes up where it is not. Raises SbxError."""
    wanted = policy.network
    with Gate():
        defined = definitions.names()
        network = upkeep.find(wanted.name or DEFAULT)
        present = links.find(network.bridge) is not None
        try:
            return _enter(network, name, wanted, tell)
        except BaseException:
            # What came up for this run alone goes with it.
            if not present and links.find(network.bridge):
                upkeep.take_down(network)
            if network.name not in defined:
                definitions.forget(network.name)
            raise


def _enter(network: Definition, name: str, wanted: Wanted, tell: Tell) -> Bridged:
    bridge = upkeep.bring_up(network, tell)
    for what in upkeep.sweep(network):
        tell(f"took back {what}", "a sandbox that was killed had left it behind")
    lease, lock = take(
        network,
        (name, *wanted.aliases),
        ports=choose_ports(network, wanted.publish),
        allow=wanted.allow,
        deny=wanted.deny,
        dns=wanted.dns,
    )
    try:
        if lease.in_firewall:
            upkeep.refresh()
        names.ensure(network)
        return Bridged(lease, lock, bridge, _shape(wanted, network))
    except BaseException:
        drop(lease)
        os.close(lock)
        raise

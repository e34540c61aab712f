"""Who is on a network: a file for each sandbox, named by the number of its address.

The file is locked as long as the sandbox lives: its launcher holds the descriptor, or the session
that it dies with. So the kernel ends a lease, whatever happened; `dead` finds those that ended so.
"""

from __future__ import annotations

import fcntl
import os

from sandbox.errors import HostError, StateError
from sandbox.record import Record
from sandbox.services.network.bridge.definitions import Definition, read_lines, write_file
from sandbox.services.network.bridge.subnets import FIRST, mac_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LAST = ".last"


class Published(Record):
    """A port of the host that leads to one of a sandbox. `address` "" = all of the host's."""

    address: str
    port: int
    inside: int
    protocol: str = "tcp"


class Lease(Record):
    """One sandbox on a network. `allow`: lines for the firewall, None = it may reach everything."""

    network: Definition
    number: int
    names: tuple[str, ...] = ()
    ports: tuple[Published, ...] = ()
    allow: tuple[str, ...] | None = None

    @property
    def address4(self) -> bytes:
        """Its IPv4 address."""
        return self.network.v4.address(self.number)

    @property
    def address6(self) -> bytes | None:
        """Its IPv6 address."""
        subnet = self.network.v6
        return subnet.address(self.number) if subnet else None

    @property
    def mac(self) -> bytes:
        """Its hardware address."""
        return mac_address(self.address4)

    @property
    def link(self) -> str:
        """The host's end of its cable; 15 characters are the kernel's most."""
        return f"{self.network.bridge}p{self.number:x}"

    @property
    def path(self) -> str:
        """Its file."""
        return f"{self.network.folder}/leases/{self.number}"

    @property
    def in_firewall(self) -> bool:
        """Whether the table has something of its own."""
        return bool(self.ports) or self.allow is not None

    def lines(self) -> list[str]:
        """Its file's content."""
        found = [f"name={name}" for name in self.names]
        found += [f"port={p.address} {p.port} {p.inside} {p.protocol}" for p in self.ports]
        if self.allow is not None:
            found += [f"allow={rule}" for rule in ("", *self.allow)]
        return found


def _decode(network: Definition, number: int, lines: list[str]) -> Lease:
    """What a file says; what is damaged in it is left out."""
    names, ports, allow = [], [], None
    for line in lines:
        key, _, value = line.partition("=")
        if key == "name":
            names.append(value)
        elif key == "allow":
            allow = (*(allow or ()), *((value,) if value else ()))
        elif key == "port":
            parts = value.split(" ")
            if len(parts) == 4 and parts[1].isdecimal() and parts[2].isdecimal():
                ports.append(Published(parts[0], int(parts[1]), int(parts[2]), parts[3]))
    return Lease(network, number, tuple(names), tuple(ports), allow)


def _numbers(network: Definition) -> list[int]:
    try:
        found = os.listdir(f"{network.folder}/leases")
    except OSError:
        return []
    return sorted(int(name) for name in found if name.isdecimal() and name.isascii())


def _is_held(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def all_leases(network: Definition) -> Iterator[tuple[Lease, bool]]:
    """Every lease, and whether its sandbox lives. Under the gate: others look by locking too."""
    for number in _numbers(network):
        path = f"{network.folder}/leases/{number}"
        lines = read_lines(path)
        if lines is not None:
            yield _decode(network, number, lines), _is_held(path)


def living(network: Definition) -> list[Lease]:
    """The leases in use."""
    return [lease for lease, lives in all_leases(network) if lives]


def dead(network: Definition) -> list[Lease]:
    """The leases that nobody took back."""
    return [lease for lease, lives in all_leases(network) if not lives]


def take(network: Definition, names: tuple[str, ...], **more: object) -> tuple[Lease, int]:
    """The next free address, and the descriptor that holds it; under the gate.

    Addresses are used again as late as possible. Raises HostError when there is none left.
    """
    taken = set(_numbers(network))
    last = network.v4.last
    size = last - FIRST + 1
    before = (read_lines(f"{network.folder}/{_LAST}") or [""])[0]
    start = int(before) + 1 - FIRST if before.isdecimal() else 0
    for step in range(size):
        number = FIRST + (start + step) % size
        if number not in taken:
            break
    else:
        raise HostError(
            f'the network "{network.name}" has no address left',
            cause=f"all {max(size, 0)} of {network.subnet4} are in use",
            hint="end some of its sandboxes, or make a network with a bigger --subnet",
        )
    lease = Lease(network, number, names, **more)  # type: ignore[arg-type]
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(lease.path, flags, 0o600)
    except OSError as error:
        cause = (error.strerror or "").lower()
        raise StateError(f"cannot write {lease.path}", cause=cause, hint="make room") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # the name server looks without the gate, by locking
        os.write(fd, "".join(f"{line}\n" for line in lease.lines()).encode())
        write_file(f"{network.folder}/{_LAST}", f"{number}\n")
    except BaseException as error:
        os.unlink(lease.path)
        os.close(fd)
        if isinstance(error, OSError) and not isinstance(error, StateError):
            cause = (error.strerror or "").lower()
            raise StateError(f"cannot write {lease.path}", cause=cause, hint="make room") from error
        raise
    return lease, fd


def drop(lease: Lease) -> None:
    """Give an address back; under the gate."""
    try:
        os.unlink(lease.path)
    except FileNotFoundError:
        return

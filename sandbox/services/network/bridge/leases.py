"""Who is on a network: a file for each sandbox, named by the number of its address.

The file is locked as long as the sandbox lives: its launcher holds the descriptor, or the session
that it dies with. So the kernel ends a lease, whatever happened; `dead` finds those that ended so.
"""

from __future__ import annotations

import fcntl
import os
import time

from sandbox.errors import HostError
from sandbox.record import Record
from sandbox.services.network.bridge.definitions import (
    Definition,
    cannot_write,
    read_lines,
    write_file,
)
from sandbox.services.network.bridge.egress import Learned
from sandbox.services.network.bridge.subnets import FIRST, mac_address
from sandbox.services.network.ports import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LAST = ".last"
_GONE = "."
_LEARNED = ".learned"


class Lease(Record):
    """One sandbox on a network. `allow` and `deny`: rules of policy/egress.py; `learned`: what the
    names in them led to; `dns`: name servers instead of the host's."""

    network: Definition
    number: int
    names: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    learned: tuple[Learned, ...] = ()

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
        return bool(self.ports or self.allow)

    def lines(self) -> list[str]:
        """Its file's content."""
        found = [f"name={name}" for name in self.names]
        found += [f"port={p.address} {p.port} {p.inner} {p.protocol}" for p in self.ports]
        for key in ("allow", "deny", "dns"):
            found += [f"{key}={text}" for text in getattr(self, key)]
        return found


def _decode(network: Definition, number: int, lines: list[str]) -> Lease:
    """What a file says; what is damaged in it is left out."""
    found: dict[str, list[str]] = {}
    for line in lines:
        key, _, value = line.partition("=")
        found.setdefault(key, []).append(value)
    ports = []
    for value in found.get("port", ()):
        parts = value.split(" ")
        if len(parts) == 4 and parts[1].isdecimal() and parts[2].isdecimal():
            ports.append(Port(parts[0], int(parts[1]), int(parts[2]), parts[3]))
    names, allow, deny, dns = (
        tuple(found.get(key, ())) for key in ("name", "allow", "deny", "dns")
    )
    lease = Lease(network, number, names, tuple(ports), allow, deny, dns)
    return lease.replace(learned=_learned(lease)) if allow else lease


def _learned(lease: Lease) -> tuple[Learned, ...]:
    found = []
    for line in read_lines(f"{lease.path}{_LEARNED}") or ():
        words = line.split(" ")
        try:
            rule, address, until_s = words
            found.append(Learned(rule, bytes.fromhex(address), float(until_s)))
        except ValueError:
            continue
    return tuple(found)


def learn(lease: Lease, learned: Iterable[Learned]) -> None:
    """Write down what names led to; under the gate. Raises StateError."""
    lines = (f"{each.rule} {each.address.hex()} {each.until_s}\n" for each in learned)
    write_file(f"{lease.path}{_LEARNED}", "".join(lines))


def _entries(network: Definition) -> list[str]:
    try:
        return [n for n in os.listdir(f"{network.folder}/leases") if n.isascii()]
    except OSError:
        return []


def _numbers(network: Definition) -> list[int]:
    return sorted(int(name) for name in _entries(network) if name.isdecimal())


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
    taken = {int(n.removeprefix(_GONE)) for n in _entries(network) if n.strip(_GONE).isdecimal()}
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
        raise cannot_write(lease.path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # the name server looks without the gate, by locking
        os.write(fd, "".join(f"{line}\n" for line in lease.lines()).encode())
        write_file(f"{network.folder}/{_LAST}", f"{number}\n")
    except BaseException as error:
        os.unlink(lease.path)
        os.close(fd)
        if isinstance(error, OSError):
            raise cannot_write(lease.path, error) from error
        raise
    return lease, fd


def drop(lease: Lease) -> None:
    """Give an address back; under the gate."""
    for path in (f"{lease.path}{_LEARNED}", lease.path, _retired_path(lease)):
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue


def retire(lease: Lease) -> None:
    """End a lease whose cable the kernel is still taking up; its number stays taken so long."""
    os.rename(lease.path, _retired_path(lease))


def retired(network: Definition) -> list[tuple[Lease, float]]:
    """Such leases, and for how many seconds."""
    found = []
    for name in _entries(network):
        if name.startswith(_GONE) and name[1:].isdecimal():
            lease = Lease(network, int(name[1:]))
            age_s = time.time() - os.stat(_retired_path(lease)).st_ctime
            found.append((lease, age_s))
    return found


def _retired_path(lease: Lease) -> str:
    return f"{lease.network.folder}/leases/{_GONE}{lease.number}"

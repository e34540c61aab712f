"""The networks that there are: a folder each, and the lock over all of them.

Owns `BASE`: `NAME/network` is what the network is, `NAME/leases/` who is on it (see leases). The
definition stays until somebody removes it, over reboots as well.
"""

from __future__ import annotations

import errno
import fcntl
import os

from sandbox.errors import HostError, StateError
from sandbox.linux.paths import networks_dir, private_dir
from sandbox.record import Record
from sandbox.services.network.bridge.subnets import Subnet, parse_subnet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

BASE = networks_dir()
DEFAULT = "bridge"
DEFAULT_BRIDGE = "sbx0"
MTU = 1500
_FILE = "network"
_LOCK = ".lock"


class Definition(Record):
    """One network. `subnet6` "" = no IPv6. `rate` in bits a second, `delay` in seconds, `loss` in
    percent: what every sandbox on it gets that asks for nothing else."""

    name: str
    bridge: str
    subnet4: str
    subnet6: str = ""
    mtu: int = MTU
    internal: bool = False
    isolate: bool = False
    rate: int = 0
    delay: float = 0.0
    loss: float = 0.0

    @property
    def v4(self) -> Subnet:
        """The IPv4 subnet."""
        return parse_subnet(self.subnet4)

    @property
    def v6(self) -> Subnet | None:
        """The IPv6 subnet."""
        return parse_subnet(self.subnet6) if self.subnet6 else None

    @property
    def gateways(self) -> tuple[bytes, ...]:
        """The addresses of the bridge."""
        return tuple(subnet.address(1) for subnet in (self.v4, self.v6) if subnet)

    @property
    def folder(self) -> str:
        """Where its files are."""
        return f"{BASE}/{self.name}"


_SAMPLE = dict(Definition("", "", ""))


class Gate:
    """The lock over all networks, as a context: everything that changes one is done inside."""

    def __init__(self) -> None:
        self._fd = -1

    def __enter__(self) -> Self:
        if os.geteuid():
            raise HostError(
                "cannot reach the host's networks",
                cause="bridges belong to root",
                hint="run sbx as root, or use --network user, which anybody can",
            )
        path = f"{private_dir(BASE)}/{_LOCK}"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError as error:
            raise StateError(f"cannot lock {path}", cause=(error.strerror or "").lower()) from error
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)


def write_file(path: str, data: str) -> None:
    """Replace a file, whole or not at all. Raises StateError."""
    folder, name = os.path.split(path)
    part = f"{folder}/.{name}.new"  # one writer at a time: all hold the gate
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(data)
        os.rename(part, path)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str, error: OSError) -> StateError:
    """What to raise when a file of networks cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StateError(
        f"cannot write {path}",
        cause=(error.strerror or str(error)).lower(),
        hint="make room there" if full else f"networks are kept in {BASE}, which root must write",
    )


def read_lines(path: str) -> list[str] | None:
    """The lines of a file; None when it is not there, or is not text."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except (OSError, ValueError):
        return None


def _decode(name: str, lines: list[str]) -> Definition | None:
    values: dict[str, Any] = {}
    for line in lines:
        key, _, value = line.partition("=")
        sample = _SAMPLE.get(key, "")
        try:
            values[key] = value if isinstance(sample, str) else type(sample)(float(value))
        except ValueError:
            return None
    try:
        found = Definition(**values)
        bad = found.name != name or len(found.v4.base) != 4
        return None if bad or (found.v6 and len(found.v6.base) != 16) else found
    except (TypeError, ValueError):
        return None


def save(definition: Definition) -> None:
    """Write a network down. Raises StateError."""
    private_dir(f"{definition.folder}/leases")
    lines = [f"{k}={int(v) if isinstance(v, bool) else v}\n" for k, v in definition]
    write_file(f"{definition.folder}/{_FILE}", "".join(lines))


def load(name: str) -> Definition | None:
    """The network with this name. Raises StateError when its file is damaged."""
    path = f"{BASE}/{name}/{_FILE}"
    lines = read_lines(path)
    found = _decode(name, lines) if lines is not None else None
    if found is None and os.path.lexists(path):
        raise StateError(
            f'cannot read the network "{name}"',
            cause=f"{path} is damaged",
            hint=f"remove it with: sbx network rm {name}",
        )
    return found


def names() -> list[str]:
    """The names of all networks, the default first, damaged ones too."""
    try:
        found = [name for name in os.listdir(BASE) if not name.startswith(".")]
    except OSError:
        return []
    return sorted(found, key=lambda name: (name != DEFAULT, name))


def load_all() -> list[Definition]:
    """All networks that can be read."""
    found = []
    for name in names():
        try:
            each = load(name)
        except StateError:
            continue
        if each:
            found.append(each)
    return found


def forget(name: str) -> None:
    """Remove the files of a network. Raises StateError."""
    folder = f"{BASE}/{name}"
    try:
        for path in (f"{folder}/leases", folder):
            if os.path.isdir(path):
                for each in os.listdir(path):
                    if not os.path.isdir(f"{path}/{each}"):
                        os.unlink(f"{path}/{each}")
                os.rmdir(path)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise StateError(f"cannot remove {folder}", cause=cause) from error

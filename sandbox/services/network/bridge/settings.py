"""The kernel settings that networks need of the whole host: forwarding, and what it changes.

Owns `BASE/.settings`: what they were before, written down before anything changes, so that whoever
takes down the last network can put them back. The kernel changes others with them: forwarding of
all links follows `all`, and a host that forwards IPv6 stops listening to its router (accept_ra 1).
"""

from __future__ import annotations

import os

from sandbox.errors import SetupError
from sandbox.services.network.bridge.definitions import BASE, read_lines, write_file

_FILE = f"{BASE}/.settings"
_ROOT = "/proc/sys/net"
_KINDS = (("ipv4", ("forwarding", "accept_redirects")), ("ipv6", ("forwarding", "accept_ra")))


def _read(name: str) -> str:
    try:
        with open(f"{_ROOT}/{name}") as file:
            return file.read().strip()
    except OSError:
        return ""


def write(name: str, value: str) -> None:
    """Write a setting below net. Raises SetupError."""
    try:
        with open(f"{_ROOT}/{name}", "w") as file:
            file.write(value)
    except OSError as error:
        where = f"net.{name.replace('/', '.')}"
        cause = (error.strerror or "").lower()
        raise SetupError(f"cannot set {where} to {value}", cause=cause) from error


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _links(family: str) -> list[str]:
    try:
        # What stands for the others comes first: writing it changes them.
        return sorted(os.listdir(f"{_ROOT}/{family}/conf"), key=lambda n: (n != "all", n))
    except OSError:
        return []


def _before() -> dict[str, str]:
    """What was written down in this boot."""
    lines = read_lines(_FILE) or []
    if not lines or lines[0] != _boot():
        return {}
    return dict(line.partition("=")[::2] for line in lines[1:])


def forwarded_before() -> tuple[bool, bool]:
    """Whether the host forwarded IPv4 and IPv6 before, or without, any network of ours."""
    known = _before()
    found = []
    for family in ("ipv4", "ipv6"):
        name = f"{family}/conf/all/forwarding"
        found.append((known.get(name) or _read(name)) == "1")
    return found[0], found[1]


def forward(families: tuple[str, ...]) -> list[str]:
    """Have the host forward; the settings that had to be changed, by name. Raises SetupError."""
    off = [each for each in families if _read(f"{each}/conf/all/forwarding") == "0"]
    if not off:
        return []
    known = _before()
    for family, kinds in _KINDS:
        for link in _links(family) if family in off else ():
            for kind in kinds:
                name = f"{family}/conf/{link}/{kind}"
                known.setdefault(name, _read(name))
    lines = [_boot(), *(f"{name}={value}" for name, value in known.items() if value)]
    write_file(_FILE, "".join(f"{line}\n" for line in lines))
    for family in off:
        write(f"{family}/conf/all/forwarding", "1")
    for link in _links("ipv6") if "ipv6" in off else ():
        if _read(f"ipv6/conf/{link}/accept_ra") == "1" and link not in ("all", "default"):
            write(f"ipv6/conf/{link}/accept_ra", "2")
    return [f"net.{family}.conf.all.forwarding" for family in off]


def restore() -> None:
    """Put back what was written down. Raises SetupError naming the first that cannot be."""
    for name, value in _before().items():
        if _read(name) not in ("", value):
            write(name, value)
    try:
        os.unlink(_FILE)
    except FileNotFoundError:
        return

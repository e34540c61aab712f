"""Ports of the host that lead to a sandbox: which, and whether they are free."""

from __future__ import annotations

import _socket
import errno

from sandbox.errors import HostError, PolicyError
from sandbox.policy.egress import parse_publish, show_address
from sandbox.services.network.bridge.definitions import load_all
from sandbox.services.network.bridge.leases import living
from sandbox.services.network.bridge.subnets import EVERYWHERE
from sandbox.services.network.ports import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.policy.egress import Publish
    from sandbox.services.network.bridge.definitions import Definition

_TRIES = 16
_LOOPBACK6 = bytes(15) + b"\1"


def choose_ports(network: Definition, texts: Sequence[str]) -> tuple[Port, ...]:
    """Every port that `texts` ask for, those that the host picks with it; under the gate.

    Raises PolicyError, and HostError for one that is in use.
    """
    if not texts:
        return ()
    if network.internal:
        raise PolicyError(
            f'cannot publish ports of a sandbox on "{network.name}"',
            cause="the network is internal: nobody outside reaches it",
            hint="leave -p out, or use a network without --internal",
        )
    taken = [port for each in load_all() for lease in living(each) for port in lease.ports]
    found: list[Port] = []
    for text in texts:
        wish = parse_publish(text)
        if wish.address == _LOOPBACK6:
            raise PolicyError(
                f"cannot publish {text}",
                cause="the kernel routes nothing from its IPv6 loopback",
                hint="use 127.0.0.1, or another address of the host",
            )
        if len(wish.address) == 16 and not network.subnet6:
            raise PolicyError(
                f"cannot publish {text}", cause=f'the network "{network.name}" has no IPv6'
            )
        found += _ports(wish, [*taken, *found])
    return tuple(found)


def _ports(wish: Publish, taken: Sequence[Port]) -> list[Port]:
    address = show_address(wish.address)
    if wish.low:
        span = range(wish.high - wish.low + 1)
        wanted = [Port(address, wish.low + n, wish.inner + n, wish.protocol) for n in span]
        for port in wanted:
            _check(port, taken)
            _bind(port)
        return wanted
    for _ in range(_TRIES):
        port = Port(
            address,
            _bind(Port(address, 0, wish.inner, wish.protocol)),
            wish.inner,
            wish.protocol,
        )
        if not any(_same(port, other) for other in taken):
            return [port]
    raise HostError(f"cannot find a free port at {address}", cause="others take them meanwhile")


def _same(port: Port, other: Port) -> bool:
    if (port.port, port.protocol) != (other.port, other.protocol):
        return False
    if (":" in port.address) != (":" in other.address):
        return False
    either = (port.address, other.address)
    return either[0] == either[1] or any(address in EVERYWHERE for address in either)


def _check(port: Port, taken: Sequence[Port]) -> None:
    if any(_same(port, other) for other in taken):
        raise _in_use(port, "another sandbox has published it")


def _bind(port: Port) -> int:
    """Whether a program of the host has it, by trying; the port, which 0 has the kernel pick."""
    family = _socket.AF_INET6 if ":" in port.address else _socket.AF_INET
    kind = _socket.SOCK_DGRAM if port.protocol == "udp" else _socket.SOCK_STREAM
    made = _socket.socket(family, kind | _socket.SOCK_CLOEXEC)
    try:
        if kind == _socket.SOCK_STREAM:
            made.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if family == _socket.AF_INET6:
            made.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        made.bind((port.address, port.port))
        number: int = made.getsockname()[1]
    except OSError as error:
        cause = "a program of the host has it" if error.errno == errno.EADDRINUSE else ""
        raise _in_use(port, cause or (error.strerror or str(error)).lower()) from error
    finally:
        made.close()
    return number


def _in_use(port: Port, cause: str) -> HostError:
    address = f"[{port.address}]" if ":" in port.address else port.address
    return HostError(
        f"cannot publish port {port.port}/{port.protocol} at {address}",
        cause=cause,
        hint="choose another port, or 0 for one that is free",
    )

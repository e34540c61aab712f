"""The driver of the mode "user": starts the process that carries the network, and hands it over.

The ports of the host are bound first, so a busy one is an error while nothing is made. The process
starts before the launcher and loads while that works; once the sandbox is held it is given what
was opened inside. Nobody waits for it: packets do, in the device.
"""

from __future__ import annotations

import _socket
import errno
import marshal
import os
import select
import sys
import time

from sandbox.errors import HostError, SbxError, SetupError
from sandbox.host.network import network_facts
from sandbox.launcher.image import seal_bytes
from sandbox.launcher.spawn import send_with
from sandbox.plan.endpoints import addresses, names
from sandbox.services.network import Network, children
from sandbox.services.network.ports import Port, record_ports
from sandbox.services.network.user.upstreams import host_upstreams

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any

    from sandbox.policy.egress import Publish
    from sandbox.policy.model import Policy
    from sandbox.services.network import Tell
else:  # the module `signal` would import enum
    import _signal as signal

_CHANNEL = 3
# Descriptors that were inheritable in the caller end here.
_CHILD = (
    f"import os,sys;os.closerange({_CHANNEL + 1},1<<30);sys.path.append(sys.argv[1]);"
    f"from sandbox.services.network.user.serve import main;main({_CHANNEL})"
)
_BACKLOG = 4096
_GOES_ON, _ENDED = "the sandbox goes on without its network", "its process has ended"
_A_MESSAGE = 200  # descriptors; the kernel takes 253 (SCM_MAX_FD)
_LINE_MAX = 4096
_ACCOUNT_MAX = 4 << 20
_END_S = 3.0


class UserNetwork(Network):
    """The process, the socket to it, the account that it writes, and the ports of the host."""

    def __init__(self, policy: Policy, name: str, tell: Tell) -> None:
        """Bind the ports and start the process. Raises SbxError with nothing made."""
        self._policy = policy
        self._tell = tell
        self._facts = network_facts()
        self._published: list[tuple[_socket.socket, int]] = []
        self._channel: _socket.socket | None = None
        self._pid = 0
        self._account_fd = -1
        self._init = -1
        self._serves = False
        self._done = False
        self._lost = ""
        self._final: dict[str, Any] | None = None
        del name
        children.reap()
        try:
            for text in policy.network.publish:
                self._publish(text)
            self._account_fd = os.memfd_create("sbx-network", os.MFD_CLOEXEC)
            self._start()
        except SbxError:  # which may be an OSError too
            self._drop()
            raise
        except OSError as error:
            self._drop()
            cause = (error.strerror or str(error)).lower()
            raise SetupError("cannot start the network of the sandbox", cause=cause) from error
        except BaseException:
            self._drop()
            raise

    # ---- before the sandbox ------------------------------------------------------------------

    def _publish(self, text: str) -> None:
        from sandbox.policy.egress import parse_publish

        wanted = parse_publish(text)
        for number in range(wanted.high - wanted.low + 1):
            self._published.append(self._bind(text, wanted, number))

    def _bind(self, text: str, wanted: Publish, number: int) -> tuple[_socket.socket, int]:
        from sandbox.policy.egress import show_address

        family = _socket.AF_INET if len(wanted.address) == 4 else _socket.AF_INET6
        stream = wanted.protocol == "tcp"
        kind = _socket.SOCK_STREAM if stream else _socket.SOCK_DGRAM
        place = show_address(wanted.address)
        port = wanted.low + number if wanted.low else 0
        bound = _socket.socket(family, kind)
        try:
            if family == _socket.AF_INET6:
                bound.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
            if stream:
                bound.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            bound.bind((place, port))
            if stream:
                bound.listen(_BACKLOG)
        except OSError as error:
            bound.close()
            cause = (error.strerror or str(error)).lower()
            raise HostError(
                f"cannot publish {_shown(place, port)} ({text})",
                cause=cause,
                hint=_PUBLISH_HINTS.get(error.errno or 0, "name another address or port"),
            ) from error
        return bound, wanted.inner + number

    def _ports(self) -> list[Port]:
        """What is published, with the ports that the kernel has picked."""
        found = []
        for bound, inner in self._published:
            address, port = bound.getsockname()[:2]
            protocol = "tcp" if bound.type == _socket.SOCK_STREAM else "udp"
            found.append(Port(address, port, inner, protocol))
        return found

    def _start(self) -> None:
        """In a process group of its own, so that no key of a terminal ends it."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._channel = ours
        package = os.path.dirname(os.path.abspath(sys.modules["sandbox"].__file__ or ""))
        argv = [sys.executable, "-I", "-S", "-B", "-c", _CHILD, os.path.dirname(package)]
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        # The channel comes first: it may itself be one of the descriptors that are opened here.
        moved = os.dup(theirs.fileno()) if theirs.fileno() == _CHANNEL else theirs.fileno()
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                argv,
                kept,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, moved, _CHANNEL),
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setpgroup=0,
                setsigmask=(),
                setsigdef=range(1, 32),
            )
        finally:
            if moved != theirs.fileno():
                os.close(moved)
            theirs.close()

    def record(self, folder: int) -> None:
        """The account in a file of the sandbox's folder, and beside it the ports."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            made = os.open("network", flags, 0o600, dir_fd=folder)
            os.close(self._account_fd)
            self._account_fd = made
        except OSError as error:
            cause = (error.strerror or str(error)).lower()
            raise SetupError("cannot keep the account of the network", cause=cause) from error
        record_ports(folder, self._ports())

    # ---- the sandbox is held -----------------------------------------------------------------

    def connect(self, pid: int, descriptors: tuple[int, ...]) -> None:
        """Hand everything over, and say that this is all."""
        kinds = names(self._facts)
        given: list[tuple[Any, int]] = list(zip(kinds, descriptors, strict=False))
        ours: list[int] = list(descriptors)
        try:
            if len(descriptors) != len(kinds):
                raise SetupError(
                    "cannot start the network of the sandbox",
                    cause=f"{len(descriptors)} of {len(kinds)} descriptors came",
                )
            self._init = os.pidfd_open(pid)
            ours.append(seal_bytes("sbx-network-config", marshal.dumps(self._config(), 4)))
            given += [("pidfd", self._init), ("config", ours[-1]), ("account", self._account_fd)]
            given += [(("publish", inner), bound.fileno()) for bound, inner in self._published]
            for start in range(0, len(given), _A_MESSAGE):
                part = given[start : start + _A_MESSAGE]
                self._send(tuple(name for name, _ in part), [fd for _, fd in part])
            self._send(("start",), [])
        except SetupError:
            raise
        except (BrokenPipeError, ConnectionResetError):
            self._lose(_ENDED)
        except OSError as error:
            self._lose((error.strerror or str(error)).lower())
        finally:
            for fd in ours:
                os.close(fd)

    def _send(self, words: tuple[Any, ...], descriptors: list[int]) -> None:
        assert self._channel is not None  # noqa: S101 - between start and close
        send_with(self._channel, marshal.dumps(words, 4), descriptors, _socket.MSG_NOSIGNAL)

    def _config(self) -> dict[str, Any]:
        wanted = self._policy.network
        limits = {
            name: value
            for name in ("connections", "connections_per_second")
            if (value := getattr(wanted, name))
        }
        return {
            "addresses": addresses(self._facts),
            "mtu": wanted.mtu,
            "allow": wanted.allow,
            "deny": wanted.deny,
            "sni": wanted.sni,
            "upstreams": _parsed(wanted.dns) or host_upstreams(),
            "limits": limits,
            "debug": self.debug,
        }

    # ---- meanwhile, and after it ----------------------------------------------------------------

    def fileno(self) -> int:
        """The socket to the process, as long as that is there."""
        return self._channel.fileno() if self._channel else -1

    def hear(self) -> None:
        """Read what the process says; its end is the end of the network."""
        while self._channel:
            try:
                line = self._channel.recv(_LINE_MAX, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                line = b""
            if not line:
                self._lose(_ENDED)
            elif line == b"ready":
                self._serves = True
            elif line == b"done":
                self._done = True
            elif line.startswith(b"warning: "):
                self._tell("the network of the sandbox", _printable(line[9:]))
            elif line.startswith(b"denied: "):
                self._tell("the network denied", _printable(line[8:]))

    def _lose(self, cause: str) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None
        if self._done:
            return  # the sandbox has ended, and its network with it
        self._lost = cause
        self._tell(_GOES_ON, cause)

    def account(self) -> dict[str, Any] | None:
        """What the process has written last, with the ports and what became of it."""
        return self._final

    def close(self, *, living: bool) -> None:
        """The process ends with the sandbox; one that does not is killed."""
        if not living and self._pid:
            self._await_end()
        self._final = {
            "ports": [port.as_dict() for port in self._ports()],
            "lost": self._lost,
            **read_account(self._account_fd),
        }
        self._drop(living=living)

    def _await_end(self) -> None:
        """Its end may come a moment after that of the sandbox: it writes its account first. One
        that is still loading has let nothing through, and has nothing to write."""
        self.hear()
        if not self._serves:
            return
        end = time.monotonic() + _END_S
        while self._channel and not self._done:
            if not _readable(self._channel.fileno(), max(0.0, end - time.monotonic())):
                self._lost = self._lost or "its process did not end by itself"
                return
            self.hear()

    def _drop(self, *, living: bool = False) -> None:
        """Close what is ours; without `living` nothing of the process stays."""
        if self._channel:
            self._channel.close()
            self._channel = None
        for bound, _ in self._published:
            bound.close()
        self._published.clear()
        for fd in (self._account_fd, self._init):
            if fd >= 0:
                os.close(fd)
        self._account_fd = self._init = -1
        if self._pid:
            if not living:
                # It takes its device along, which the kernel takes its time for: nobody waits.
                try:
                    os.kill(self._pid, signal.SIGKILL)
                except ProcessLookupError:  # somebody else reaped it
                    pass
            children.leave(self._pid)
        self._pid = 0


_ENVIRONMENT = ("LD_LIBRARY_PATH", "PYTHONHOME")
_PUBLISH_HINTS = {
    errno.EADDRINUSE: "name another port of the host, or 0 to have one picked",
    errno.EACCES: "ports below 1024 are root's (net.ipv4.ip_unprivileged_port_start)",
    errno.EADDRNOTAVAIL: "name an address of this host, such as 127.0.0.1",
}


def _printable(line: bytes) -> str:
    """What may hold a name that the sandbox has made up."""
    text = line.decode("utf-8", "replace")
    return text if text.isprintable() else ascii(text)[1:-1]


def _parsed(servers: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    if not servers:
        return ()
    from sandbox.policy.egress import parse_upstream

    return tuple(map(parse_upstream, servers))


def _readable(fd: int, patience_s: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(patience_s * 1000))


def _shown(place: str, port: int) -> str:
    return f"[{place}]:{port}" if ":" in place else f"{place}:{port}"


def read_account(fd: int) -> dict[str, Any]:
    """What stands in an account, {} when nothing sound does."""
    import json

    try:
        found = json.loads(os.pread(fd, _ACCOUNT_MAX, 0) or b"{}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

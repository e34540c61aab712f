"""The driver of the modes "pasta" and "slirp4netns": starts the program, and waits until it serves.

A socket of the sandbox's network namespace leads to the namespace itself and to its owner, which
the program gets as descriptors. The sandbox stays held until there is a way out of it.
"""

from __future__ import annotations

import _socket
import os
import select
import sys
import time
from fcntl import F_DUPFD_CLOEXEC, fcntl, ioctl

from sandbox.errors import HostError, SetupError
from sandbox.linux import netlink
from sandbox.linux.programs import find_program
from sandbox.services.network import Network, children
from sandbox.services.network.foreign import DONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any

    from sandbox.policy.model import Policy
    from sandbox.services.network import Tell
else:  # the module `signal` would import enum
    import _signal as signal

_PACKAGES = {"pasta": "passt", "slirp4netns": "slirp4netns"}
_DNS = "10.0.2.3"
_SIOCGSKNS, _NS_GET_USERNS = 0x894C, 0xB701  # socket(7), ioctl_nsfs(2)
_WATCH = (
    "import sys;sys.path.append(sys.argv[1]);"
    "from sandbox.services.network.foreign.watch import main;main(sys.argv[2:])"
)
_READY_S, _PAUSE_S, _END_S = 10.0, 0.005, 3.0
_LINE_MAX = 4096


def command(mode: str, path: str, mtu: int) -> list[str]:
    """The program's arguments: descriptors 0 and 1 are the namespaces, and no port leads either
    way, neither to the host's loopback nor from it."""
    if mode == "pasta":
        namespaces = ["--netns", "/proc/self/fd/0", "--userns", "/proc/self/fd/1"]
        closed = ["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw"]
        kept = ["--foreground", "--quiet", "--stderr", "--no-netns-quit"]
        way = ["--config-net", "--mtu", str(mtu), "--dns-forward", _DNS]
        return [path, *kept, *way, *closed, *namespaces]
    closed = ["--disable-host-loopback", "--enable-seccomp"]
    namespaces = ["--netns-type=path", "--userns-path=/proc/self/fd/1", "/proc/self/fd/0", "tap0"]
    return [path, "--configure", f"--mtu={mtu}", *closed, *namespaces]


class ForeignNetwork(Network):
    """The program, behind the process that watches it."""

    files = (("/etc/resolv.conf", f"nameserver {_DNS}\n".encode()),)

    def __init__(self, policy: Policy, name: str, tell: Tell) -> None:
        """Find the program. Raises HostError with nothing made."""
        self._mode = policy.network.mode
        self._tell = tell
        self._command = command(self._mode, _find(self._mode), policy.network.mtu)
        self._channel: _socket.socket | None = None
        self._pid = 0
        self._lost = ""
        self._over = False
        del name
        children.reap()

    def connect(self, pid: int, descriptors: tuple[int, ...]) -> None:
        """Start the program, and wait for its way out of the namespace."""
        ours = list(descriptors)
        try:
            ours.append(ioctl(ours[0], _SIOCGSKNS))
            ours.append(ioctl(ours[1], _NS_GET_USERNS))
            ours.append(os.pidfd_open(pid))
            self._start(ours[1:])
            self._wait(ours[0])
        except SetupError:  # which is an OSError too
            raise
        except OSError as error:
            raise self._failed((error.strerror or str(error)).lower()) from error
        finally:
            for fd in ours:
                os.close(fd)

    def _failed(self, cause: str) -> SetupError:
        return SetupError(
            f"cannot connect the sandbox to a network with {self._mode}",
            cause=cause,
            hint="use --network user, which needs no other program",
            phase="network",
        )

    def _start(self, given: list[int]) -> None:
        """In a process group of its own, so that no key of a terminal ends it."""
        package = os.path.dirname(os.path.abspath(sys.modules["sandbox"].__file__ or ""))
        argv = [sys.executable, "-I", "-S", "-B", "-c", _WATCH, os.path.dirname(package)]
        network, owner, init = given
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        moved: list[int] = []
        try:
            wanted = (network, owner, theirs.fileno(), init)
            # Where a caller has closed its own, one may have the number of another's place.
            for fd in wanted:
                moved.append(fcntl(fd, F_DUPFD_CLOEXEC, len(wanted)))
            self._pid = os.posix_spawn(
                sys.executable,
                [*argv, *self._command],
                {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(moved)],
                setpgroup=0,
                setsigmask=(),
                setsigdef=range(1, 32),
            )
        except OSError:
            ours.close()
            raise
        finally:
            for fd in moved:
                os.close(fd)
            theirs.close()
        self._channel = ours

    def _wait(self, talk: int) -> None:
        """Until there is a default route inside. Raises SetupError when the program ends."""
        end = time.monotonic() + _READY_S
        while not _leads_out(talk):
            if self._readable(_PAUSE_S):
                self._read()
                raise self._failed(self._lost or "its process has ended")
            if time.monotonic() > end:
                raise self._failed(f"there is no way out of it after {_READY_S:.0f} s")

    def _readable(self, patience_s: float) -> bool:
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        return bool(poller.poll(patience_s * 1000))

    def fileno(self) -> int:
        """The socket to the process, as long as that is there."""
        return self._channel.fileno() if self._channel else -1

    def _read(self) -> None:
        """One message, or the end; there is one."""
        assert self._channel is not None  # noqa: S101 - only called while it is open
        try:
            line = self._channel.recv(_LINE_MAX)
        except OSError:
            line = b""
        if line == DONE:
            self._over = True
        elif line:
            self._lost = line.decode("ascii", "replace")
        elif not self._over:
            self._lost = self._lost or "its process has ended"
        if not line:
            self._channel.close()
            self._channel = None

    def hear(self) -> None:
        """The program's end is the end of the network."""
        known = self._lost
        if self._channel:
            self._read()
        if self._lost != known:
            self._tell(f"the sandbox goes on without {self._mode}, its network", self._lost)

    def account(self) -> dict[str, Any]:
        """Nobody counts; but whether it was there to the end."""
        return {"ports": [], "lost": self._lost}

    def close(self, *, living: bool) -> None:
        """The process ends with the sandbox; one that does not is killed, the program with it."""
        end = time.monotonic() + _END_S
        while not living and self._channel and self._readable(max(0.0, end - time.monotonic())):
            self.hear()
        if self._channel:
            if not living:
                _kill_all(self._pid)
            self._channel.close()
            self._channel = None
        if self._pid and living:
            children.leave(self._pid)
        elif self._pid:
            _reap(self._pid)
        self._pid = 0


_ENVIRONMENT = ("LD_LIBRARY_PATH", "PYTHONHOME")


def _kill_all(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:  # somebody else did
        pass


def _leads_out(talk: int) -> bool:
    answer = netlink.ask(netlink.ROUTE, netlink.numbered([netlink.dump_routes()]), over=talk)
    return any(
        not prefix and table == netlink.MAIN and index != netlink.LOOPBACK
        for _destination, prefix, table, index in netlink.routes(answer)
    )


def _find(mode: str) -> str:
    if path := find_program(mode):
        return path
    raise HostError(
        f"cannot make a network with {mode}",
        cause="the program is in none of the system's folders",
        hint=f"install the package {_PACKAGES[mode]}, or use --network user",
    )

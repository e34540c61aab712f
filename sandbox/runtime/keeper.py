"""Talking to the launcher of a kept sandbox, over the socket in its folder.

Owns the request form (helpers/launcher/keeper.c has the other side) and the checks that the one
who answers is the launcher that the description names, and that what it hands over belongs
together.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import struct
import time

from sandbox.errors import StateError
from sandbox.runtime.registry import start_ticks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.runtime.registry import Folder

FREEZE, THAW = 65, 66  # in records of orders, beside signals

# enum namespace_place of helpers/launcher/report.h
USER, MOUNT, PID, NET, IPC, UTS, CGROUP, ROOT, TIME, INNER = range(10)

_ANSWER_S = 10.0
_PLACES = 10
_CREDENTIALS = struct.Struct("iii")
_REPLY = struct.Struct("ii")
# ioctl_ns(2)
_NS_GET_USERNS, _NS_GET_PARENT, _NS_GET_OWNER_UID = 0xB701, 0xB702, 0xB704


class Keeper:
    """A connection to the launcher of `folder`'s sandbox. It ends when the sandbox does."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            # sockaddr_un holds 108 bytes; the folder's own path may be longer.
            self._socket.connect(f"/proc/self/fd/{folder.fd}/control")
            self._check_peer()
        except OSError as error:
            self._socket.close()
            raise self._gone(error) from error
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Let go; nothing happens to the sandbox."""
        self._socket.close()

    def fileno(self) -> int:
        """Readable at its end only when the sandbox has ended."""
        return self._socket.fileno()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gone(self, error: OSError) -> StateError:
        name = self._folder.name or self._folder.id
        refused = error.errno == errno.ECONNREFUSED  # nobody listens there any more
        return StateError(
            f"sandbox {name} is not running",
            cause="it has ended" if refused else (error.strerror or str(error)).lower(),
            hint=f"see how it ended with: sbx inspect {self._folder.id}",
        )

    def _check_peer(self) -> None:
        raw = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        known = self._folder.description
        # SO_PEERCRED is of the one who called listen(2): sbx itself, which bound the socket.
        if uid != os.getuid():
            raise StateError(
                f"cannot trust {self._folder.path}",
                cause=f"user {uid} answers there (process {pid}), not you",
                hint="remove that folder",
            )
        if known.pid and start_ticks(known.pid) != known.started_ticks:
            raise StateError(
                f"sandbox {known.id} is not running",
                cause=f"process {known.pid} is another one by now",
                hint=f"remove it with: sbx rm {known.id}",
            )

    def _ask(self, verb: bytes, argument: int = 0) -> tuple[int, list[int]]:
        """The answer's second number and its descriptors. Raises StateError, OSError."""
        try:
            self._socket.send(verb + bytes((argument,)), _socket.MSG_NOSIGNAL)
            poller = select.poll()
            poller.register(self._socket.fileno(), select.POLLIN)
            if not poller.poll(_ANSWER_S * 1000):
                pid = self._folder.description.pid
                raise StateError(
                    f"sandbox {self._folder.name} does not answer",
                    cause=f"its launcher, process {pid}, has said nothing for {_ANSWER_S:.0f} s",
                    hint=f"if somebody has stopped that: kill -CONT {pid}",
                )
            data, ancillary, _, _ = self._socket.recvmsg(
                _REPLY.size, _socket.CMSG_SPACE(4 * _PLACES), _socket.MSG_CMSG_CLOEXEC
            )
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._gone(error) from error
        fds: list[int] = []
        for level, kind, raw in ancillary:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                fds += memoryview(raw)[: len(raw) - len(raw) % 4].cast("i").tolist()
        if len(data) != _REPLY.size:
            close_all(fds)
            raise self._gone(ConnectionResetError(errno.ECONNRESET, "it ended just now"))
        number, extra = _REPLY.unpack(data)
        if number:
            close_all(fds)
            raise OSError(number, os.strerror(number))
        return extra, fds

    def signal(self, number: int) -> None:
        """Send a signal to the payload. Raises StateError, OSError."""
        self._ask(b"S", number)

    def kill(self) -> None:
        """Kill everything in the sandbox; `wait` tells when it is done."""
        self._ask(b"K")

    def freeze(self) -> None:
        """Stop all processes (SIGSTOP). Raises OSError EOPNOTSUPP without an init of ours."""
        self._ask(b"F")

    def thaw(self) -> None:
        """Let all processes go on (SIGCONT), those too that had stopped by themselves."""
        self._ask(b"T")

    def input(self) -> tuple[str, int]:
        """("none"|"pipe"|"terminal", descriptor or -1): what the payload reads from."""
        kind, fds = self._ask(b"I")
        return ("none", "pipe", "terminal")[kind], fds[0] if fds else -1

    def end_input(self) -> None:
        """Close the launcher's end of a pipe that the payload reads from; later `input` is none."""
        self._ask(b"E")

    def namespaces(self) -> dict[int, int]:
        """Descriptors by place (USER … INNER), the caller's to close. Raises StateError."""
        places, fds = self._ask(b"N")
        found = dict(zip((p for p in range(_PLACES) if places & 1 << p), fds, strict=True))
        try:
            check_namespaces(found)
        except OSError as error:
            close_all(found.values())
            raise StateError(
                f"cannot enter sandbox {self._folder.id}",
                cause=(error.strerror or str(error)).lower(),
                hint="it is still being set up, or ends just now: try again",
            ) from error
        return found

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the sandbox's end; False when the time is up."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLIN)
        while True:
            left = None if end is None else max(0.0, end - time.monotonic()) * 1000
            if not poller.poll(left):
                return False
            try:
                if self._socket.recv(_REPLY.size):
                    continue
            except ConnectionResetError:
                pass
            # A process that ends closes its descriptors one by one: its locks may go last.
            pause = 0.001
            while self._folder.lives():
                if end is not None and time.monotonic() > end:
                    return False
                time.sleep(pause)
                pause = min(2 * pause, 0.1)
            return True


def close_all(fds: object) -> None:
    """Close several descriptors."""
    for fd in fds:  # type: ignore[attr-defined]
        os.close(fd)


def check_namespaces(found: dict[int, int]) -> None:
    """All must belong to the one user namespace that this user owns, and the payload's be its
    child: raise OSError otherwise."""
    missing = [place for place in (USER, MOUNT, PID, ROOT, INNER) if place not in found]
    if missing:
        raise OSError(errno.ENOENT, "some of its namespaces are not there")
    owner = struct.unpack("I", fcntl.ioctl(found[USER], _NS_GET_OWNER_UID, b"\0" * 4))[0]
    if owner != os.getuid():
        raise OSError(errno.EPERM, f"its user namespace belongs to user {owner}")
    owned = {place: found[place] for place in (USER, MOUNT, PID)}
    check_owned(owned)
    if not _same(found[INNER], found[USER]) or not _same(found[USER], "/proc/self/ns/user"):
        _check_parent(found[INNER], _NS_GET_PARENT, found[USER])


def without_own(found: dict[int, int]) -> dict[int, int]:
    """Those to enter: a sandbox without a user namespace has that of the host, which is ours."""
    own = _same(found[INNER], "/proc/self/ns/user")
    return {place: fd for place, fd in found.items() if place != INNER or not own}


def _same(one: int | str, other: int | str) -> bool:
    a, b = os.stat(one), os.stat(other)
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def check_owned(found: dict[int, int]) -> None:
    """All but USER must belong to that user namespace: raise OSError otherwise."""
    for place, fd in found.items():
        if place != USER:
            _check_parent(fd, _NS_GET_USERNS, found[USER])


def _check_parent(fd: int, request: int, outer: int) -> None:
    # EPERM: it belongs to a user namespace around ours, the host's.
    parent = fcntl.ioctl(fd, request)
    try:
        if os.fstat(parent).st_ino != os.fstat(outer).st_ino:
            raise OSError(errno.EXDEV, "its namespaces do not belong together")
    finally:
        os.close(parent)

"""The name server of a network, seen from outside: started when it is not there, and ended.

A process of its own serves the gateway's port 53 (see name_server); it holds the lock of
`NAME/.names`, where its pid is. Its sockets are opened here: a question that comes before it runs
waits in them.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import select
import sys

from sandbox.errors import SetupError
from sandbox.policy.egress import show_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from sandbox.services.network.bridge.definitions import Definition
else:  # the module `signal` would import enum
    import _signal as signal

PORT = 53
LOCK = 3
"""The number of the lock's descriptor in the process; the sockets follow, UDP and TCP in turn."""

_END_S = 2.0
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from sandbox.services.network.bridge.name_server import main; main(sys.argv[2])"
)


def _lock_path(network: Definition) -> str:
    return f"{network.folder}/.names"


def ensure(network: Definition) -> None:
    """Have the name server run; under the gate. Raises SetupError."""
    lock = os.open(
        _lock_path(network), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    opened: list[_socket.socket] = []
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for gateway in network.gateways:
            for kind in (_socket.SOCK_DGRAM, _socket.SOCK_STREAM):
                opened.append(_listen(gateway, kind))
        _spawn(network, lock, opened)
    except BlockingIOError:
        return
    except OSError as error:
        raise SetupError(
            f'cannot start the name server of the network "{network.name}"',
            cause=(error.strerror or str(error)).lower(),
            hint=f"something else may have port {PORT} of every address: ss -lnp sport = {PORT}",
            errno=error.errno or 0,
            phase="network",
        ) from error
    finally:
        os.close(lock)
        for each in opened:
            each.close()


def _listen(address: bytes, kind: int) -> _socket.socket:
    family = _socket.AF_INET if len(address) == 4 else _socket.AF_INET6
    made = _socket.socket(family, kind | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        if kind == _socket.SOCK_STREAM:
            made.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        made.bind((show_address(address), PORT))
        if kind == _socket.SOCK_STREAM:
            made.listen(64)
    except OSError:
        made.close()
        raise
    return made


def _spawn(network: Definition, lock: int, opened: list[_socket.socket]) -> None:
    """Start the process; it outlives this one."""
    root = os.path.dirname(os.path.abspath(sys.modules["sandbox"].__path__[0]))
    # Above all numbers that they get there: dup2 would close one that is still to be copied.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in (lock, *map(_fileno, opened))]
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, at) for at in range(LOCK)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, at) for at, fd in enumerate(copies, LOCK)]
        words = [sys.executable, "-I", "-S", "-B", "-c", _START, root, network.name]
        pid = os.posix_spawn(
            sys.executable, words, {"LC_ALL": "C.UTF-8"}, file_actions=actions, setsid=True
        )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{pid}\n".encode(), 0)
    finally:
        for fd in (null, *copies):
            os.close(fd)


def _fileno(opened: _socket.socket) -> int:
    return opened.fileno()


def end(network: Definition) -> None:
    """End the name server where it runs; under the gate."""
    try:
        lock = os.open(_lock_path(network), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _is_free(lock):
            return
        text = os.pread(lock, 32, 0).strip()
        pid = int(text) if text.isdigit() else 0
        if not pid:
            return
        process = os.pidfd_open(pid)
        try:
            if not _is_free(lock):  # it lives, so the number is its own
                signal.pidfd_send_signal(process, signal.SIGKILL)
                poller = select.poll()
                poller.register(process, select.POLLIN)
                poller.poll(_END_S * 1000)
        finally:
            os.close(process)
    except ProcessLookupError:
        return
    finally:
        os.close(lock)


def _is_free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True

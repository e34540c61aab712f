"""What a host has that a careless caller leaves in reach, made for the probe to look for."""

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECRET = "the-callers-secret"
ADD_KEY, KEYCTL = 248, 250


@dataclass(frozen=True)
class HostThings:
    """What exists on the host while the probe looks for it."""

    words: tuple[str, ...]
    secret_fd: int


@contextmanager
def host_things(folder: Path) -> Iterator[HostThings]:
    """Sockets, shared memory, a message queue, a key, and a secret file that is open."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = f"sbx-test-{os.getpid()}"
    key = 0x5B000000 | os.getpid()
    shm = libc.shmget(key, 4096, 0o1666)
    queue = libc.mq_open(f"/{name}".encode(), os.O_RDWR | os.O_CREAT, 0o666, None)
    libc.syscall(KEYCTL, 1, None)  # KEYCTL_JOIN_SESSION_KEYRING: an own one
    libc.syscall(ADD_KEY, b"user", name.encode(), SECRET.encode(), len(SECRET), -3)
    secret = folder / "secret"
    secret.write_text(SECRET)
    fd = os.open(secret, os.O_RDWR)
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket() as tcp:
        abstract.bind(f"\0{name}")
        abstract.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        port = str(tcp.getsockname()[1])
        words = ["--abstract", name, "--port", port, "--shm", str(key), "--mqueue", name]
        words += ["--key", name]
        yield HostThings((*words, "--host-path", str(folder.parent.parent)), fd)
    os.close(fd)
    libc.shmctl(shm, 0, None)
    if queue >= 0:
        os.close(queue)
        libc.mq_unlink(f"/{name}".encode())


def run_hostile(
    command: list[str], things: HostThings, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run with everything that a careless caller could leave to a child."""

    def prepare() -> None:
        os.umask(0)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGRTMIN})
        for fd in (3, 57, 101, 103, 105, 200):
            os.dup2(things.secret_fd, fd, inheritable=True)

    return subprocess.run(
        command,
        env={**env, "SBX_TEST_SECRET": SECRET, "SSH_AUTH_SOCK": "/tmp/agent", "LD_AUDIT": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        close_fds=False,
        preexec_fn=prepare,
        cwd="/proc/self/fd",
    )

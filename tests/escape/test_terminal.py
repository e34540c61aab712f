"""The caller's terminal: nothing that the payload does to its own shows in the caller's input."""

import fcntl
import os
import pty
import select
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Sbx

EPERM = 1


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal as the caller's: (master, the side that the caller reads)."""
    ends = pty.openpty()
    yield ends
    for fd in ends:
        os.close(fd)


def run_on(terminal: tuple[int, int], sbx: Sbx, *words: object) -> bytes:
    """Run sbx with the terminal as standard streams and as controlling terminal; its output."""
    master, slave = terminal

    def take() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    running = subprocess.Popen(
        [sbx.path, *map(str, words)],
        env=sbx.env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=take,
    )
    running.wait(60)
    seen = b""
    while select.select([master], [], [], 0.2)[0]:
        seen += os.read(master, 65536)
    return seen


def pending_input(slave: int) -> bytes:
    """What a shell would read next."""
    mode = termios.tcgetattr(slave)
    mode[3] &= ~termios.ICANON
    mode[6][termios.VMIN] = mode[6][termios.VTIME] = 0
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    return os.read(slave, 4096)


@pytest.mark.parametrize("policy", ["strict", "default", "ci", "permissive"])
def test_characters_cannot_be_pushed(
    sbx: Sbx, attack_rootfs: Path, terminal: tuple[int, int], policy: str
) -> None:
    words = ("run", "-it", "--policy", policy, attack_rootfs, "/attack", "push")
    assert run_on(terminal, sbx, *words).split() == [str(EPERM).encode()] * 4
    assert pending_input(terminal[1]) == b""


def test_pushed_characters_end_in_the_sandboxs_own_terminal(
    sbx: Sbx, attack_rootfs: Path, terminal: tuple[int, int]
) -> None:
    """Without the filter too: the payload never holds the caller's terminal."""
    words = ("--security-opt", "seccomp=unconfined", attack_rootfs, "/attack", "push")
    run_on(terminal, sbx, "run", "-it", *words)
    assert pending_input(terminal[1]) == b""


@pytest.mark.parametrize("option", ["-t", "-i"])
def test_the_payload_holds_no_terminal_of_the_caller(
    sbx: Sbx, rootfs: Path, terminal: tuple[int, int], option: str
) -> None:
    """Its streams are pipes, or the first terminal of its own devpts."""
    script = "for fd in 0 1 2; do readlink /proc/self/fd/$fd; done"
    seen = run_on(terminal, sbx, "run", option, rootfs, "sh", "-c", script).decode().split()
    wanted = {"-t": "/dev/pts/0", "-i": "pipe:"}[option]
    assert len(seen) == 3, seen
    assert all(name.startswith(wanted) for name in seen), seen
    if option == "-t":
        device = run_on(terminal, sbx, "run", "-t", rootfs, "stat", "-c", "%d", "/dev/pts/0")
        assert int(device) != os.fstat(terminal[1]).st_dev

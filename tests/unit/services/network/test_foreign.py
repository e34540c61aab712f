"""The programs of others that carry a network: how they are started, and that they end."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import HostError
from sandbox.plan import network
from sandbox.plan.request import Degradation
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import FOREIGN_MODES, Policy
from sandbox.services.network.foreign import driver

WATCH = (
    "import sys; sys.path.append(sys.argv[1]);"
    "from sandbox.services.network.foreign.watch import main; main(sys.argv[2:])"
)
PATIENCE_S = 20.0


def policy(mode: str, base: str = "default", **more: object) -> Policy:
    asked = Layer("options", {"network": {"mode": mode, **more}}, {"network.mode": "--network"})
    return build_policy([*load_policy(base), asked])


@pytest.mark.parametrize("mode", FOREIGN_MODES)
def test_a_network_without_rules_is_told_and_strict_refuses_it(mode: str) -> None:
    lost: list[Degradation] = []
    steps = network.network_steps(policy(mode), lost)
    assert [step.op.opcode for step in steps] == [28, 35]
    assert [(one.layer, one.quiet) for one in lost] == [("network", False)]
    assert f"network.allow is not enforced by {mode}" in lost[0].cause
    with pytest.raises(HostError) as caught:
        network.network_steps(policy(mode, "strict"), lost)
    assert caught.value.hint.startswith("use --network user, which follows rules")


@pytest.mark.parametrize("mode", FOREIGN_MODES)
def test_a_missing_program_is_an_error_with_its_package(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "find_program", lambda _: None)
    with pytest.raises(HostError) as caught:
        driver.ForeignNetwork(policy(mode), "x", lambda *_: None)
    package = {"pasta": "passt", "slirp4netns": "slirp4netns"}[mode]
    assert f"install the package {package}," in caught.value.hint


def test_nothing_is_forwarded_by_itself() -> None:
    words = " ".join(driver.command("pasta", "/x", 1500))
    for closed in ("-t none", "-u none", "-T none", "-U none", "--no-map-gw", "--mtu 1500"):
        assert f" {closed} " in words
    assert {"--disable-host-loopback", "--mtu=1500"} <= {*driver.command("slirp4netns", "/x", 1500)}


def test_what_was_not_started_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(driver, "find_program", lambda _: "/nonexistent")
    monkeypatch.setattr(driver, "fcntl", refuse)
    killed: list[int] = []
    monkeypatch.setattr(driver, "_kill_all", killed.append)
    monkeypatch.setattr(driver, "_END_S", 0.0)
    carried = driver.ForeignNetwork(policy("pasta"), "x", lambda *_: None)
    with pytest.raises(OSError, match="Too many") as kept:
        carried._start([0, 0, 0])
    carried.close(living=False)
    assert kept.value.errno == errno.EMFILE
    assert killed == []


@contextmanager
def watched(*program: str) -> Iterator[tuple[subprocess.Popen[bytes], int, socket.socket]]:
    """The process that watches; a process that stands for the sandbox's init; what is said."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    init = subprocess.Popen(["/bin/sleep", "60"])
    pidfd = os.pidfd_open(init.pid)
    # Higher than the places where descriptors go.
    spare = fcntl(pidfd, F_DUPFD_CLOEXEC, 10)
    package = str(Path(sandbox.__file__).parents[1])
    watch = subprocess.Popen(
        [sys.executable, "-I", "-c", f"import os; os.dup2({spare}, 3); {WATCH}", package, *program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs.fileno(),
        pass_fds=(spare,),
    )
    theirs.close()
    ours.settimeout(PATIENCE_S)
    try:
        yield watch, init.pid, ours
    finally:
        for process in (watch, init):
            process.kill()
            process.wait()
        ours.close()
        os.close(pidfd)
        os.close(spare)


def until(true: Callable[[], bool]) -> bool:
    """Whether it becomes true."""
    end = time.monotonic() + PATIENCE_S
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def shell(tmp_path: Path) -> tuple[str, ...]:
    """A program that tells its pid, and lives."""
    return (
        "/bin/sh",
        "-c",
        f"cd {tmp_path}; echo $$ > new; mv new pid; sleep 60",
    )


def started(tmp_path: Path) -> int:
    """A pidfd of that program."""
    assert until((tmp_path / "pid").exists)
    return os.pidfd_open(int((tmp_path / "pid").read_text()))


def ended(pidfd: int) -> bool:
    """Whether the process ends."""
    try:
        return bool(select.select([pidfd], [], [], PATIENCE_S)[0])
    finally:
        os.close(pidfd)


def test_what_a_program_says_at_its_end_is_told() -> None:
    said = "echo 'first' >&2; printf 'no\\033 way\\n' >&2; exit 3"
    with watched("/bin/sh", "-c", said) as (watch, _, channel):
        assert channel.recv(4096) == b"it ended with status 3: first; no way"
        assert channel.recv(4096) == b""
        assert watch.wait(PATIENCE_S) == 0


def test_a_program_that_says_much_is_not_held_up() -> None:
    with watched("/bin/sh", "-c", "head -c 1000000 /dev/zero >&2; exit 4") as (_, _, channel):
        assert channel.recv(4096).startswith(b"it ended with status 4")


def test_a_program_that_cannot_be_started_is_told() -> None:
    with watched("/nonexistent") as (_, _, channel):
        assert channel.recv(4096) == b"it ended with status 127: no such file or directory"


def test_the_program_ends_with_the_sandbox(tmp_path: Path) -> None:
    with watched(*shell(tmp_path)) as (watch, init, channel):
        program = started(tmp_path)
        os.kill(init, signal.SIGKILL)
        assert channel.recv(4096) == b"done"
        assert ended(program)
        assert watch.wait(PATIENCE_S) == 0


def test_the_program_ends_with_what_watches_it(tmp_path: Path) -> None:
    with watched(*shell(tmp_path)) as (watch, _, channel):
        program = started(tmp_path)
        watch.kill()
        assert channel.recv(4096) == b""
        assert ended(program)


def test_a_program_starts_with_the_kernel_s_own_signals() -> None:
    with watched("/bin/sh", "-c", "grep SigIgn /proc/$$/status >&2; exit 5") as (_, _, channel):
        ignored = int(channel.recv(4096).rpartition(b"SigIgn:")[2], 16)
        assert ignored & ~0x180000000 == 0  # but 32 and 33, which libc keeps

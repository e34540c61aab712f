"""Sandboxes that share namespaces can do to each other what is shared, and no more."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.runtime import keeper
from tests.conftest import Sbx
from tests.escape.test_probe import ALLOWED, not_allowed
from tests.support.caller import probe_under
from tests.support.host_things import HostThings

UNGUARDED = ("--policy", "permissive", "--root", "--security-opt", "seccomp=unconfined")
# What another process's files, memory, descriptors and namespaces are reached by.
ATTACK = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for pid in (int(n) for n in os.listdir("/proc") if n.isdigit()):
    name = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\\0")[0]
    if name not in (b"sleep", b"init"):
        continue
    print("seen", name.decode())
    if libc.ptrace(16, pid, 0, 0) == 0:
        print("REACHED ptrace")
    for link in ("root", "cwd", "exe", "fd/0", "ns/net", "ns/mnt", "ns/user"):
        try:
            fd = os.open(f"/proc/{pid}/{link}", os.O_RDONLY)
            print("REACHED", link, libc.setns(fd, 0))
        except OSError:
            pass
    for file in ("mem", "environ", "maps", "auxv"):
        try:
            print("REACHED", file, len(open(f"/proc/{pid}/{file}", "rb").read(1)))
        except OSError:
            pass
    pidfd = os.pidfd_open(pid)
    if libc.syscall(438, pidfd, 0, 0) >= 0:
        print("REACHED pidfd_getfd")
    if libc.setns(pidfd, 0x00020000) == 0:
        print("REACHED setns")
"""
NEST = """
import ctypes, time
libc = ctypes.CDLL(None)
print("tries", flush=True)
while True:
    if libc.unshare(0x10000000) == 0:
        print("MADE ONE", flush=True)
        time.sleep(1000)
"""


LIMITS = """
import errno, os, resource
def attempt(name, pid):
    try:
        resource.prlimit(pid, resource.RLIMIT_NICE, (0, 0))
        print(name, "set")
    except OSError as error:
        print(name, errno.errorcode[error.errno])
attempt("own", 0)
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        attempt(name, int(name))
"""


@pytest.fixture
def start(sbx: Sbx) -> Iterator[Callable[..., str]]:
    """Starts a sandbox on the host's root in the background; all are removed after the test."""
    made: list[str] = []

    def run(*words: object) -> str:
        done = sbx("run", "-d", *words)
        assert done.returncode == 0, done.stderr
        made.append(done.stdout.strip())
        return made[-1]

    yield run
    for box in made:
        assert sbx("rm", "-f", box).returncode == 0


def test_what_is_not_shared_is_out_of_reach(sbx: Sbx, start: Callable[..., str]) -> None:
    """With no filter and as user 0, in both directions and through all that can be shared."""
    first = start(*UNGUARDED, "/", "sleep", "1000")
    pod = [f"--{kind}=container:{first}" for kind in ("network", "ipc", "uts", "pid")]
    second = start(*UNGUARDED, *pod, "/", "sleep", "1000")
    newcomer = sbx("run", *UNGUARDED, *pod, "/", "python3", "-c", ATTACK)
    for done in (newcomer, sbx("exec", first, "python3", "-c", ATTACK)):
        # Of a command that joined, the first's processes are its own: those of others are meant.
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("seen sleep") == 2
    assert "REACHED" not in newcomer.stdout
    third = sbx("exec", second, "python3", "-c", ATTACK).stdout
    assert 0 < third.count("REACHED ptrace") == 1, third  # its own, which shows that it looks


def test_a_strict_newcomer_sets_no_limits_of_others(sbx: Sbx, start: Callable[..., str]) -> None:
    """The user ids are the same, which is all that prlimit(2) asks for."""
    policy = sbx.home / "newcomer.toml"
    text = 'extends = "strict"\n[namespaces]\nshares = ["pid"]\n[filesystem]\nproc = "full"\n'
    policy.write_text(text)
    first = start("/", "sleep", "1000")
    done = sbx("run", "--policy", policy, f"--pid=container:{first}", "/", "python3", "-c", LIMITS)
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found.pop("own") == "set"
    assert len(found) >= 3  # both inits, and what the first one runs
    assert set(found.values()) == {"EPERM"}


def test_no_namespace_is_made_while_another_comes_in(sbx: Sbx, start: Callable[..., str]) -> None:
    """The newcomer's user namespace takes room that must be nobody else's."""
    policy = sbx.home / "unguarded.toml"
    policy.write_text('extends = "default"\n[seccomp]\nbase = "unconfined"\n')
    first = start("--policy", policy, "/", "python3", "-c", NEST)
    while "tries" not in sbx("logs", first).stdout:
        pass
    for _ in range(15):
        done = sbx("run", f"--network=container:{first}", "/", "true")
        assert done.returncode == 0, done.stderr
    assert sbx("logs", first).stdout == "tries\n"


def test_many_come_in_at_once(sbx: Sbx, start: Callable[..., str]) -> None:
    first = start("/", "sleep", "1000")
    line = ("run", f"--network=container:{first}", "/", "readlink", "/proc/self/ns/net")
    running = [sbx.start(*line) for _ in range(12)]
    found = [(process.communicate(timeout=60), process.returncode) for process in running]
    assert [code for _, code in found] == [0] * 12, found
    assert len({output for (output, _), _ in found}) == 1
    nested = sbx("exec", first, "cat", "/proc/sys/user/max_user_namespaces")
    assert nested.stdout == "0\n"


@pytest.mark.usefixtures("descriptors_closed")
def test_namespaces_of_others_are_not_shared() -> None:
    """What a keeper hands over is looked at: a host's namespace among it would be the host's."""
    places = {keeper.USER: "user", keeper.NET: "net", keeper.UTS: "uts"}
    child = os.fork()
    if not child:
        libc = ctypes.CDLL(None)
        libc.unshare(0x10000000 | 0x40000000)
        signal.pause()
    try:
        end = time.monotonic() + 20
        while os.readlink(f"/proc/{child}/ns/net") == os.readlink("/proc/self/ns/net"):
            assert time.monotonic() < end
        theirs = {
            place: os.open(f"/proc/{child}/ns/{name}", os.O_RDONLY)
            for place, name in places.items()
        }
        uts = theirs.pop(keeper.UTS)  # the host's
        try:
            keeper.check_owned(theirs)
            with pytest.raises(OSError, match="do not belong together"):
                keeper.check_owned({**theirs, keeper.UTS: uts})
        finally:
            keeper.close_all((*theirs.values(), uts))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("policy", ["default", "ci"])
def test_the_newcomer_is_held_as_others_are(
    sbx: Sbx, start: Callable[..., str], probe_rootfs: Path, host_things: HostThings, policy: str
) -> None:
    first = start("/", "sleep", "1000")
    pod = [f"--{kind}=container:{first}" for kind in ("network", "ipc", "uts")]
    found = probe_under(sbx, probe_rootfs, host_things, "--policy", policy, *pod)
    assert not_allowed(found, ALLOWED[policy]) == {}

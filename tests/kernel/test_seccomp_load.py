"""Filters in the running kernel: they load, answer as promised, and let real programs work."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.policy.model import Seccomp
from sandbox.seccomp import program
from sandbox.seccomp.syscalls_x86_64 import NUMBERS

STRICT = Seccomp("allow", (), ("unix", "inet", "inet6"))
DEFAULT = Seccomp("deny", ("D1", "D2"))
PERMISSIVE = Seccomp("deny", ("D1",))
POLICIES = {"strict": STRICT, "default": DEFAULT, "permissive": PERMISSIVE}
ROOT = str(Path(__file__).parents[2])

HIGH = 1 << 32


def load(seccomp: Seccomp) -> None:
    """Put a filter on this process, for good."""
    code = program(seccomp, nested=False, capabilities=(), cache_dir=None)
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    found = Program(len(code) // 8, ctypes.addressof(instructions))
    set_no_new_privs, set_seccomp, mode_filter = 38, 22, 2
    assert libc.prctl(set_no_new_privs, 1, 0, 0, 0) == 0
    assert libc.prctl(set_seccomp, mode_filter, ctypes.byref(found)) == 0, ctypes.get_errno()


def call(number: int, *args: int) -> int:
    """One system call; its error number, 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(arg) for arg in args))
    return ctypes.get_errno() if result == -1 else 0


def child_answers(name: str, calls: list[tuple[int | str, list[int]]]) -> None:
    """In a child: load the policy's filter, print the error number of every call."""
    load(POLICIES[name])
    numbers = [NUMBERS[call] if isinstance(call, str) else call for call, _ in calls]
    found = [call(n, *args) for n, (_, args) in zip(numbers, calls, strict=True)]
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


def child_i386(name: str) -> None:
    """In a child: getpid of the i386 ABI, in machine code."""
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret
    place = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    place.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(place))
    function = ctypes.CFUNCTYPE(ctypes.c_int)(address)
    if name:
        load(POLICIES[name])
    os._exit(0 if function() == os.getpid() else 1)


def child_exec(name: str, argv: list[str]) -> None:
    """In a child: load the policy's filter and become `argv`."""
    load(POLICIES[name])
    os.execvp(argv[0], argv)


def in_child(function: str, *args: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run one of the functions above in a fresh interpreter."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import json\n"
        "from tests.kernel import test_seccomp_load as here\n"
        "getattr(here, sys.argv[2])(*json.loads(sys.argv[3]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, ROOT, function, json.dumps(args)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def answers(name: str, *calls: tuple[int | str, tuple[int, ...]]) -> list[int]:
    done = in_child("child_answers", name, [(call, list(args)) for call, args in calls])
    assert done.returncode == 0, done
    found: list[int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_answers_of_every_policy(name: str) -> None:
    expected: list[tuple[int | str, tuple[int, ...], int]] = [
        ("getpid", (), 0),
        (-1, (), errno.ENOSYS),
        (400, (), errno.ENOSYS),
        (5000, (), errno.ENOSYS),
        ("bpf", (0, 0, 0), errno.EPERM),
        ("reboot", (0, 0, 0, 0), errno.EPERM),
        ("keyctl", (0, 0), errno.ENOSYS),
        ("io_uring_setup", (1, 0), errno.ENOSYS),
        ("ioctl", (-1, 0x5412, 0), errno.EPERM),
        ("ioctl", (-1, 0x5412 | HIGH, 0), errno.EPERM),
        ("ioctl", (-1, 0x5413, 0), errno.EBADF),
        ("socket", (1, 1, 0), 0),
        ("socket", (2, 1 | os.O_CLOEXEC, 0), 0),
        ("socket", (2, 3, 1), errno.EPERM),
        ("socket", (38, 5, 0), errno.EAFNOSUPPORT),
        ("socket", (40 | HIGH, 1, 0), errno.EAFNOSUPPORT),
    ]
    found = answers(name, *((call, args) for call, args, _ in expected))
    assert found == [answer for _, _, answer in expected]


def test_answers_of_strict_and_default() -> None:
    expected: list[tuple[int | str, tuple[int, ...], int]] = [
        ("unshare", (0,), errno.EPERM),
        ("clone", (0x10000000 | HIGH, 0, 0, 0, 0), errno.EPERM),
        ("clone3", (0, 0), errno.ENOSYS),
        ("mount", (0, 0, 0, 0, 0), errno.EPERM),
        ("fsopen", (0, 0), errno.ENOSYS),
        ("get_mempolicy", (0, 0, 0, 0, 0), errno.ENOSYS),
    ]
    for name in ("strict", "default"):
        found = answers(name, *((call, args) for call, args, _ in expected))
        assert found == [answer for _, _, answer in expected]


def test_answers_of_strict() -> None:
    # A path of 0 gives EFAULT where the filter lets the call through.
    expected: list[tuple[int | str, tuple[int, ...], int]] = [
        ("ptrace", (0, 0, 0, 0), errno.EPERM),
        ("mknod", (0, 0o020666, 0x103), errno.EPERM),
        ("mknod", (0, 0o010666, 0), errno.EFAULT),
        ("mknodat", (-1, 0, 0o060666, 0), errno.EPERM),
        ("personality", (0xFFFFFFFF,), 0),
        ("personality", (0x40000,), errno.EPERM),
        ("socket", (16, 3, 0), errno.EAFNOSUPPORT),
        ("socket", (2, 1, 262), errno.EPROTONOSUPPORT),
        ("sendto", (-1, 0, 0, 0x20000000, 0, 0), errno.EOPNOTSUPP),
        ("sendto", (-1, 0, 0, 0, 0, 0), errno.EBADF),
        ("sched_setscheduler", (0, 1, 0), errno.EPERM),
        ("sched_setscheduler", (0, 0, 0), errno.EINVAL),
        ("seccomp", (1, 8, 0), errno.EPERM),
    ]
    found = answers("strict", *((call, args) for call, args, _ in expected))
    assert found == [answer for _, _, answer in expected]


@pytest.mark.parametrize("name", POLICIES)
def test_x32_is_killed(name: str) -> None:
    done = in_child("child_answers", name, [(0x40000000 | NUMBERS["getpid"], [])])
    assert done.returncode == -signal.SIGSYS


@pytest.mark.parametrize("name", POLICIES)
def test_i386_is_killed(name: str) -> None:
    if in_child("child_i386", "").returncode != 0:
        # A kernel without the i386 ABI ends the process by itself.
        assert in_child("child_i386", name).returncode in (-signal.SIGSEGV, -signal.SIGSYS)
    else:
        assert in_child("child_i386", name).returncode == -signal.SIGSYS


SHELL = "seq 1 2000 | sort -rn | head -3 | tr '\\n' ' '; (exit 7); echo $?; kill -0 $$ && echo me"
PYTHON = """
import asyncio, mmap, os, select, socket, subprocess, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor

assert subprocess.run(["cat"], input=b"x" * 100000, capture_output=True).stdout == b"x" * 100000
a, b = socket.socketpair()
a.send(b"hello"); assert b.recv(5) == b"hello"
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname()); peer, _ = server.accept()
client.sendmsg([b"a", b"b"]); assert peer.recv(2) == b"ab"
with ThreadPoolExecutor(4) as pool: assert sum(pool.map(len, ["ab"] * 50)) == 100
async def main():
    child = await asyncio.create_subprocess_exec("true"); return await child.wait()
assert asyncio.run(main()) == 0
with tempfile.TemporaryDirectory() as folder:
    os.mkfifo(folder + "/f"); os.symlink("x", folder + "/l"); os.link(folder + "/f", folder + "/g")
    with open(folder + "/d", "wb") as file:
        file.truncate(1 << 20); os.posix_fallocate(file.fileno(), 0, 4096)
    os.copy_file_range(os.open(folder + "/d", os.O_RDONLY), os.open(folder + "/e", 65), 100)
pid = os.fork()
if pid == 0: os._exit(3)
fd = os.pidfd_open(pid); select.select([fd], [], [])
assert os.waitid(os.P_PIDFD, fd, os.WEXITED).si_status == 3
os.memfd_create("x"); os.eventfd(0); os.getrandom(4); os.sched_getaffinity(0)
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); time.sleep(0.001)
print("done")
"""
C = """
#include <stdio.h>
#include <threads.h>
static int f(void *p) { return 5; }
int main(void) { thrd_t t; int r; thrd_create(&t, f, 0); thrd_join(t, &r); printf("%d\\n", r); }
"""
COMPILE = """
d=$(mktemp -d) && cat > $d/a.c <<< "$1" && cc -pthread -o $d/a $d/a.c && $d/a && rm -r $d
"""
PROGRAMS = {
    "shell": (["sh", "-c", SHELL], "2000 1999 1998 7\nme\n"),
    "bash": (["bash", "-c", "cat < <(echo one); coproc cat; echo ${#COPROC[@]}"], "one\n2\n"),
    "python": ([sys.executable, "-c", PYTHON], "done\n"),
    "compiler": (["bash", "-c", COMPILE, "bash", C], "5\n"),
}


@pytest.mark.parametrize("name", ["strict", "default"])
@pytest.mark.parametrize("what", PROGRAMS)
def test_real_programs_work(name: str, what: str) -> None:
    argv, expected = PROGRAMS[what]
    assert shutil.which(argv[0])
    done = in_child("child_exec", name, argv)
    assert (done.stdout, done.returncode) == (expected, 0), done.stderr

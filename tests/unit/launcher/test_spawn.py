"""What the launcher finds: seven descriptors, an empty environment, default signals."""

from __future__ import annotations

import _socket
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import HostError, SetupError, UsageError
from sandbox.launcher import spawn
from sandbox.launcher.spawn import Program, launch

ROOT = Path(sandbox.__file__).parents[1]


def shell(script: str) -> Program:
    return Program("/bin/sh", ("init", "-c", script))


def output(program: Program, **options: object) -> str:
    launched = launch(b"the plan", program=program, **options)  # type: ignore[arg-type]
    try:
        os.waitpid(launched.pid, 0)
        return os.read(launched.stdout, 65536).decode()
    finally:
        launched.close()


def in_fresh_python(code: str, **options: object) -> str:
    """Run code in a Python of its own that may break its own descriptors and limits."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    return str(done.stdout + done.stderr)


def test_the_descriptors_stand_where_the_launcher_expects_them() -> None:
    listed = output(shell("for n in 0 1 2 100 101 102; do readlink /proc/$$/fd/$n; done"))
    kinds = [line.split(":")[0] for line in listed.splitlines()]
    assert kinds == ["pipe", "pipe", "pipe", "/memfd", "socket", "anon_inode"]


def strangers(listed: str) -> set[int]:
    """What the child has beyond the protocol, and beyond what this process left inheritable
    (the real launcher closes that)."""
    found = {int(name) for name in listed.split()}
    inherited = {fd for fd in found if spawn._is_open(fd) and os.get_inheritable(fd)}
    shells_own = {10, 11, 12}
    return found - {0, 1, 2, 100, 101, 102} - inherited - shells_own


def test_nothing_else_is_handed_over() -> None:
    strange = os.open("/dev/null", os.O_RDONLY)
    try:
        assert strangers(output(shell("ls /proc/$$/fd"))) == set()
    finally:
        os.close(strange)


def test_the_plan_is_readable_and_sealed() -> None:
    script = "cat /proc/self/fd/100; (echo x >/proc/self/fd/100) 2>/dev/null || echo -refused"
    assert output(shell(script)) == "the plan-refused\n"


def test_environment_arguments_and_signals() -> None:
    script = (
        "tr '\\0' ' ' </proc/$$/cmdline; echo; cat /proc/$$/environ; "
        "exec grep Sig /proc/self/status"
    )
    lines = output(shell(script)).splitlines()
    assert lines[0].startswith("init ")
    status = dict(line.split(":\t") for line in lines[1:])
    assert int(status["SigIgn"], 16) & ~0x180000000 == 0  # but 32 and 33, which libc keeps
    assert int(status["SigBlk"], 16) == 0


def test_the_pidfd_of_the_owner_is_ours() -> None:
    assert output(shell("grep ^Pid: /proc/$$/fdinfo/102")).split() == ["Pid:", str(os.getpid())]


def test_our_ends_do_not_block_and_theirs_do() -> None:
    launched = launch(b"", program=shell("grep flags /proc/$$/fdinfo/0 /proc/$$/fdinfo/1"))
    try:
        for fd in (launched.stdin, launched.stdout, launched.stderr):
            assert not os.get_blocking(fd)
            assert not os.get_inheritable(fd)
            assert fd >= spawn.FIRST_PRIVATE
        os.waitpid(launched.pid, 0)
        flags = [int(line.split()[-1], 8) for line in os.read(launched.stdout, 999).splitlines()]
        assert not any(value & os.O_NONBLOCK for value in flags)
    finally:
        launched.close()


def test_the_channel_keeps_datagrams_apart() -> None:
    launched = launch(b"", program=shell("exit 0"))
    try:
        assert launched.channel.type == _socket.SOCK_SEQPACKET
        os.waitpid(launched.pid, 0)
        assert launched.channel.recv(10) == b""
    finally:
        launched.close()


def test_stderr_can_go_the_way_of_stdout() -> None:
    assert output(shell("echo a; echo b >&2; echo c"), merge_stderr=True) == "a\nb\nc\n"


def test_passed_descriptors_keep_their_numbers() -> None:
    reading, writing = os.pipe()
    high = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, 300)
    low = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, 7)
    script = f"echo low >/proc/self/fd/{low}; echo high >/proc/self/fd/{high}"
    try:
        output(shell(script), pass_fds=(low, high))
        assert os.read(reading, 99) == b"low\nhigh\n"
    finally:
        for fd in (reading, writing, high, low):
            os.close(fd)


def test_descriptors_that_cannot_be_passed_are_all_named() -> None:
    with pytest.raises(UsageError) as caught:
        launch(b"", program=shell(""), pass_fds=(1, 104, 999))
    assert [line.split(":")[0] for line in caught.value.problems] == ["1", "104", "999"]


def test_nothing_stays_open_after_a_failure() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SetupError, match="cannot start the launcher"):
        launch(b"", program=Program("/nonexistent"))
    assert set(os.listdir("/proc/self/fd")) == before


def test_nothing_stays_open_after_a_run() -> None:
    before = set(os.listdir("/proc/self/fd"))
    output(shell("exit 0"))
    assert set(os.listdir("/proc/self/fd")) == before


def test_threads_do_not_see_each_other() -> None:
    found: list[set[int]] = []

    def one() -> None:
        for _ in range(5):
            found.append(strangers(output(shell("ls /proc/$$/fd"))))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [set()] * 30


def test_it_works_with_the_standard_streams_closed() -> None:
    code = """
import os
report = os.dup(2)
for fd in (0, 1, 2):
    os.close(fd)
from sandbox.launcher.spawn import Program, launch
launched = launch(b"", program=Program("/bin/sh", ("init", "-c", "cat; echo out; echo err >&2")))
os.close(launched.held.give(launched.stdin))
os.waitpid(launched.pid, 0)
os.write(report, os.read(launched.stdout, 99) + os.read(launched.stderr, 99))
"""
    assert in_fresh_python(code) == "out\nerr\n"


def test_too_low_a_limit_of_open_files_is_said() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from sandbox.launcher.spawn import Program, launch
try:
    launch(b"", program=Program("/bin/true"))
except Exception as error:
    print(type(error).__name__, error)
"""
    said = in_fresh_python(code)
    assert said.startswith("HostError cannot keep enough files open")
    assert "ulimit -n" in said


def test_no_descriptor_left_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> tuple[int, int]:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(os, "pipe", full)
    with pytest.raises(HostError):
        launch(b"", program=shell(""))


def test_a_caller_that_reaps_everything_is_served() -> None:
    code = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from sandbox.launcher.spawn import Program, launch
launched = launch(b"", program=Program("/bin/sh", ("init", "-c", "echo done")))
while launched.channel.recv(9):
    pass
print(os.read(launched.stdout, 99))
"""
    assert in_fresh_python(code) == "b'done\\n'\n"


def test_ignored_signals_are_reset() -> None:
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        assert output(shell("kill -USR1 $$; echo survived")) == ""
    finally:
        signal.signal(signal.SIGUSR1, old)

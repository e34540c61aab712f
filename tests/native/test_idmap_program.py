"""sbx-idmap as a program: maps, the command's surroundings, exit codes, signals, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.host.facts import HostFacts
from sandbox.host.probe import host_facts
from sandbox.host.subids import range_map
from sandbox.linux.paths import native
from tests.support import capabilities

Ranges = tuple[tuple[int, int], ...]
Extents = tuple[tuple[int, int, int], ...]

DEADLINE_S = 20
SINGLE = ("--uid", f"0:{os.geteuid()}:1", "--gid", f"0:{os.getegid()}:1")


def start(*arguments: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [native("sbx-idmap"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )


def run(*arguments: str) -> tuple[int, str, str]:
    with start(*arguments) as process:
        output, words = process.communicate(timeout=DEADLINE_S)
    return process.returncode, output, words


def map_options(make: Callable[[int, Ranges], Extents]) -> tuple[str, ...]:
    """Options for maps of the caller's ids; root gets some that nobody else has."""
    facts: HostFacts = host_facts()
    options = []
    for option, own, subids in (
        ("--uid", facts.uid, facts.subuids),
        ("--gid", facts.gid, facts.subgids),
    ):
        for extent in make(own, subids or ((0x70000000, 65536),)):
            options += [option, ":".join(map(str, extent))]
    return tuple(options)


@pytest.fixture(scope="module")
def ranges() -> tuple[str, ...]:
    missing = "" if os.geteuid() == 0 else capabilities.subordinate_ids()
    if missing:
        pytest.skip(missing)
    return map_options(range_map)


def test_range_of_ids(ranges: tuple[str, ...]) -> None:
    script = "id -u; id -G; cat /proc/self/setgroups; cat /proc/self/uid_map"
    status, output, words = run(*ranges, "--", "sh", "-c", script)
    assert (status, words) == (0, "")
    lines = output.split("\n")
    assert lines[:3] == ["0", "0", "allow"]
    found = [line.split() for line in lines[3:] if line]
    assert [":".join(extent) for extent in found] == [
        extent for option, extent in zip(ranges[::2], ranges[1::2], strict=True)
        if option == "--uid"
    ]  # fmt: skip
    assert sum(int(extent[2]) for extent in found) == 65536


def test_one_id_needs_no_helper() -> None:
    helper = ("--newuidmap", "/nowhere", "--newgidmap", "/nowhere")
    script = "id -u; cat /proc/self/setgroups"
    status, output, _ = run(*SINGLE, *helper, "--", "sh", "-c", script)
    assert status == 0
    assert output.split() == ["0", "allow" if os.geteuid() == 0 else "deny"]


def test_setgroups_that_is_denied_already() -> None:
    """As in a namespace that was made without rights: root there cannot set groups either."""
    words = ["unshare", "-r", native("sbx-idmap"), "--uid", "0:0:1", "--gid", "0:0:1", "--"]
    done = subprocess.run(
        [*words, "sh", "-c", "id -u; cat /proc/self/setgroups"],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "deny"]


def test_denied_setgroups(ranges: tuple[str, ...]) -> None:
    status, output, _ = run(*ranges, "--deny-setgroups", "--", "cat", "/proc/self/setgroups")
    assert (status, output) == (0, "deny\n")


def test_surroundings_of_the_command() -> None:
    with open("/dev/null") as null:
        os.set_inheritable(null.fileno(), True)
        script = "env; ls /proc/self/fd; grep -e SigBlk -e SigIgn /proc/self/status"
        with start(*SINGLE, "--", "sh", "-c", script, pass_fds=(null.fileno(),)) as process:
            output, _ = process.communicate(timeout=DEADLINE_S)
    lines = output.split("\n")
    assert {"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"} <= set(lines)
    # The shell adds its folder; ls reads the folder through one more descriptor.
    assert [
        line for line in lines if "=" in line and line[:4] not in ("PATH", "LC_A", "PWD=")
    ] == []
    assert [line for line in lines if line.isdigit()] == ["0", "1", "2", "3"]
    assert "SigBlk:\t0000000000000000" in lines


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("exit 125", 125), ("kill -TERM $$", 143), ("kill -9 $$", 137)],
)
def test_status_is_that_of_the_command(script: str, status: int) -> None:
    assert run(*SINGLE, "--", "sh", "-c", script)[0] == status


def test_commands_that_cannot_be_executed() -> None:
    assert run(*SINGLE, "--", "no-such-command") == (
        127,
        "",
        "sbx-idmap: no-such-command: No such file or directory\n",
    )
    assert run(*SINGLE, "--", "/etc/passwd") == (
        126,
        "",
        "sbx-idmap: /etc/passwd: Permission denied\n",
    )


def test_helpers_words_are_passed_on(ranges: tuple[str, ...]) -> None:
    foreign = ("--uid", "0:1:1", "--gid", ranges[ranges.index("--gid") + 1], "--helpers")
    status, output, words = run(*foreign, "--", "true")
    assert (status, output) == (125, "")
    assert words == "sbx-idmap: newuidmap: uid range [0-1) -> [1-2) not allowed\n"


def test_kernels_words_are_passed_on() -> None:
    twice = ("--uid", "0:5:10", "--uid", "5:7:10", "--gid", f"0:{os.getegid()}:1", "--direct")
    status, _, words = run(*twice, "--", "true")
    assert status == 125
    assert words.startswith("sbx-idmap: uid_map: /proc/")
    assert words.endswith(("Operation not permitted\n", "Invalid argument\n"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "command: expected -- COMMAND [ARG...]"),
        (("--", "true"), "map: expected at least one --uid and one --gid"),
        (("--uid", "0:1", "--", "true"), "0:1: expected INSIDE:OUTSIDE:COUNT"),
        (("--uid", "0:1:0", "--", "true"), "0:1:0: expected INSIDE:OUTSIDE:COUNT"),
        (("--uid", "0:1:1x", "--", "true"), "0:1:1x: expected INSIDE:OUTSIDE:COUNT"),
        (("--uid", "0:-1:1", "--", "true"), "0:-1:1: expected INSIDE:OUTSIDE:COUNT"),
        (("--uid", "4294967296:1:1", "--", "true"), "4294967296:1:1: expected"),
        (("--uid",), "--uid: unknown option, or its value is missing"),
        (("--what", "x", "--", "true"), "--what: unknown option"),
        (("--parent", "x", "--", "true"), "x: expected a process id"),
        ((*("--uid", "0:1:1") * 341, "--", "true"), "0:1:1: more than 340 extents"),
        ((*SINGLE, "--parent", "1", "--", "true"), "parent: has ended"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], words: str) -> None:
    status, output, said = run(*arguments)
    assert (status, output) == (125, "")
    assert said.startswith(f"sbx-idmap: {words}")
    assert said.count("\n") == 1


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 9' {number}; echo ready; while :; do sleep 0.05; done"
    with start(*SINGLE, "--", "sh", "-c", script) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "got\n"
        assert process.wait(DEADLINE_S) == 9


@pytest.mark.usefixtures("ranges")
def test_signals_reach_a_command_with_other_ids() -> None:
    """Id 0 of such a map is a subordinate id, whom the caller may not signal as such."""
    options = map_options(lambda own, subids: ((70000, own, 1), (0, subids[0][0], 1000)))
    with start(*options, "--", "sh", "-c", "echo $$; exec sleep 100") as process:
        assert process.stdout
        assert process.stdout.readline().strip().isdigit()
        process.terminate()
        assert process.wait(DEADLINE_S) == 143


def test_command_dies_with_the_program() -> None:
    with start(*SINGLE, "--", "sh", "-c", "echo $$; exec sleep 100") as process:
        assert process.stdout
        command = int(process.stdout.readline())
        assert is_alive(command)
        process.kill()
        process.wait(DEADLINE_S)
    wait_until(lambda: not is_alive(command))


def test_program_dies_with_its_parent() -> None:
    code = (
        "import os, subprocess, sys\n"
        "argv = [sys.argv[1], '--parent', str(os.getpid()), *sys.argv[2:]]\n"
        "subprocess.run(argv)\n"
    )
    command = [native("sbx-idmap"), *SINGLE, "--", "sh", "-c", "echo $$ $PPID; exec sleep 100"]
    argv = [sys.executable, "-I", "-S", "-c", code, *command]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert all(map(is_alive, pids))
        parent.kill()
        parent.wait(DEADLINE_S)
    wait_until(lambda: not any(map(is_alive, pids)))


def test_ignored_child_signals_do_no_harm() -> None:
    """With SIGCHLD ignored, the kernel would reap the waiting child and free its pid."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    argv = [sys.executable, "-I", "-S", "-c", code, native("sbx-idmap"), *SINGLE]
    done = subprocess.run([*argv, "--", "sh", "-c", "exit 6"], timeout=DEADLINE_S, check=False)
    assert done.returncode == 6

"""Commands that join a living sandbox are held as its first one, and cannot be used against us."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sandbox.errors import SetupError, StateError
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime import keeper
from sandbox.runtime.enter import Command, Connection, enter
from sandbox.runtime.registry import Folder
from sandbox.runtime.report import Report
from sandbox.runtime.session import RunOptions, run_session, start_session
from sandbox.runtime.task import Keeping, Task
from tests.support import probe

# Scopes are not set a second time: signals to process 1 are allowed and do nothing. The parent is
# not process 1 but the process that joined for the command, which is as closed to it.
APART = {"init_signal", "init_signals"}


# Where there is but one id, who joins and what it joined for are the same user.
SINGLE = {"identity": {"map": "single"}}


@contextmanager
def idle(rootfs: Path, policy: str, **sections: object) -> Iterator[Folder]:
    """A sandbox without a command, from its start to its end."""
    options = RunOptions(keep=Keeping(detached=True, idle=True))
    wanted = build_policy([*load_policy(policy), Layer("test", sections, {})])
    folder = start_session(wanted, Task(str(rootfs), ()), options)
    try:
        yield folder
    finally:
        try:
            with keeper.Keeper(folder) as kept:
                kept.kill()
                assert kept.wait(10)
        finally:
            assert folder.remove()
            folder.close()


def joined(folder: Folder, *argv: str, **more: object) -> tuple[Report, str]:
    out = bytearray()
    connection = Connection(stdout=out, merge_stderr=True, forward_signals=False)
    report = enter(folder, Command(argv, **more), connection)  # type: ignore[arg-type]
    return report, out.decode()


@pytest.mark.parametrize("policy", ["strict", "default", "ci", "permissive"])
def test_the_probe_finds_no_more_than_in_the_first_command(probe_rootfs: Path, policy: str) -> None:
    out = bytearray()
    options = RunOptions(stdout=out, stderr=None, forward_signals=False)
    task = Task(str(probe_rootfs), ("/probe",))
    run_session(build_policy(load_policy(policy)), task, options)
    first = probe.leaks(probe.parse(out.decode()))
    with idle(probe_rootfs, policy) as folder:
        _, output = joined(folder, "/probe")
    found = probe.leaks(probe.parse(output))
    assert set(found) - set(first) <= APART, found
    assert set(first) - set(found) == set()


PEEK = """
for pid in $(ls /proc | grep '^[0-9]*$'); do
    [ "$(cat /proc/$pid/comm 2>/dev/null)" = init ] || continue
    [ "$pid" = 1 ] && continue
    echo found $pid
    for name in environ maps mem auxv syscall stack; do
        head -c 1 /proc/$pid/$name >/dev/null 2>&1 && echo open $name
    done
    for name in exe cwd root fd/0 fd/3 fd/101 fd/105 ns/mnt ns/user; do
        readlink /proc/$pid/$name 2>/dev/null
    done
    ls /proc/$pid/fd /proc/$pid/map_files 2>/dev/null
    cat /proc/$pid/cmdline | tr '\\0' '!'
    echo
    echo x 2>/dev/null >/proc/$pid/exe && echo written
    echo x 2>/dev/null >/proc/$pid/oom_score_adj && echo adjusted
done
"""


def test_the_process_that_joins_is_closed_to_the_sandbox(rootfs: Path) -> None:
    with idle(rootfs, "default") as folder:
        report, output = joined(folder, "sh", "-c", PEEK)
    assert report.exit_code == 0
    lines = output.splitlines()
    assert lines[0].startswith("found ")
    assert lines[1:] == ["init!"], output


def test_a_sandbox_that_kills_who_joins_gains_nothing(rootfs: Path) -> None:
    with idle(rootfs, "default", **SINGLE) as folder:
        with suppress(SetupError):  # killed before it could say that the command runs
            report, _ = joined(folder, "sh", "-c", "kill -9 -1; kill -9 $PPID; sleep 30")
            assert (report.reason, report.exit_code) == ("launcher-killed", 137)
        # Process 1 is out of its reach: the next command finds everything as it was.
        assert joined(folder, "sh", "-c", "echo alive")[1] == "alive\n"


@pytest.mark.parametrize("sections", [{}, {"identity": {"user": 0}}])
@pytest.mark.parametrize("policy", ["default", "permissive"])
def test_what_looks_after_a_command_is_out_of_its_reach(
    rootfs: Path, policy: str, sections: dict[str, object]
) -> None:
    with idle(rootfs, policy, **sections) as folder:
        script = "for s in KILL STOP TERM; do kill -$s $PPID && echo reached; done 2>/dev/null"
        report, output = joined(folder, "sh", "-c", f"{script}; (sleep 60 &) ; exit 3")
        assert (report.reason, report.exit_code, output) == ("exited", 3, "")
        # It can still end what the command started, whoever that has become.
        report, _ = joined(folder, "sh", "-c", "sleep 61 & sleep 61", timeout_s=0.3, grace_s=0.1)
        assert report.reason == "timeout"
        _, left = joined(folder, "sh", "-c", "cat /proc/[0-9]*/cmdline")
    assert "61" not in left


def test_a_command_that_is_lost_sight_of_says_so(rootfs: Path) -> None:
    with idle(rootfs, "default", **SINGLE) as folder:
        script = "sleep 0.5; kill -9 $PPID; sleep 30"
        report, _ = joined(folder, "sh", "-c", script)
    assert (report.reason, report.code) == ("launcher-killed", None)


STUBBORN = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 60; :' &) ; sleep 60; :"


@pytest.mark.parametrize("script", [STUBBORN, "(setsid sleep 60 &) ; sleep 60; :"])
def test_a_time_limit_ends_the_whole_tree(rootfs: Path, script: str) -> None:
    with idle(rootfs, "default") as folder:
        report, _ = joined(folder, "sh", "-c", script, timeout_s=0.5, grace_s=0.2)
        assert report.reason == "timeout"
        _, left = joined(folder, "sh", "-c", "cat /proc/[0-9]*/comm")
    assert "sleep" not in left.split()


@pytest.mark.parametrize("sections", [{}, SINGLE], ids=["range", "single"])
def test_a_time_limit_holds_when_who_joined_is_stopped(
    rootfs: Path, sections: dict[str, object]
) -> None:
    """SIGSTOP cannot be blocked."""
    beat = "trap '' TERM; while :; do echo >/tmp/beat; sleep 0.02; done"
    stop = "trap '' TERM; while :; do kill -STOP $PPID; sleep 0.01; done"
    script = f'(setsid sh -c "{beat}" &) ; until [ -e /tmp/beat ]; do :; done; {stop}'
    with idle(rootfs, "default", **sections) as folder:
        report, _ = joined(folder, "sh", "-c", script, timeout_s=2, grace_s=0.1)
        assert (report.reason, report.exit_code) == ("timeout", 124)
        _, left = joined(folder, "sh", "-c", "rm /tmp/beat && sleep 0.5; ls -A /tmp")
    assert left == ""


def test_what_a_command_leaves_goes_on_until_the_sandbox_ends(rootfs: Path) -> None:
    with idle(rootfs, "default") as folder:
        report, _ = joined(folder, "sh", "-c", "sleep 60 >/dev/null 2>&1 &")
        assert report.exit_code == 0
        _, output = joined(folder, "sh", "-c", "cat /proc/[0-9]*/comm; kill -9 -1")
    assert "sleep" in output.split()


def test_all_commands_share_the_process_limit(rootfs: Path) -> None:
    policy = build_policy([*load_policy("default"), Layer("test", {"rlimits": {"nproc": 24}}, {})])
    options = RunOptions(keep=Keeping(detached=True, idle=True))
    folder = start_session(policy, Task(str(rootfs), ()), options)
    try:
        joined(folder, "sh", "-c", "while sleep 60 >/dev/null 2>&1 & do :; done")
        with suppress(SetupError):
            joined(folder, "sh", "-c", "while sleep 60 >/dev/null 2>&1 & do :; done")
        _, output = joined(folder, "sh", "-c", "echo /proc/[0-9]*")
        assert 10 < len(output.split()) <= 24
    finally:
        with keeper.Keeper(folder) as kept:
            kept.kill()
            assert kept.wait(10)
        folder.remove()
        folder.close()


def test_namespaces_that_are_not_ours_are_not_entered(rootfs: Path) -> None:
    with idle(rootfs, "default") as folder, idle(rootfs, "default") as other:
        with keeper.Keeper(folder) as kept, keeper.Keeper(other) as foreign:
            mine, theirs = kept.namespaces(), foreign.namespaces()
        try:
            for place in (keeper.MOUNT, keeper.PID, keeper.INNER):
                mixed = {**mine, place: theirs[place]}
                with pytest.raises(OSError, match="do not belong together"):
                    keeper.check_namespaces(mixed)
            host = os.open("/proc/self/ns/user", os.O_RDONLY)
            try:
                with pytest.raises(OSError, match="belongs to user"):
                    keeper.check_namespaces({**mine, keeper.USER: host})
            finally:
                os.close(host)
            keeper.check_namespaces(mine)
        finally:
            keeper.close_all([*mine.values(), *theirs.values()])


def test_a_sandbox_that_is_gone_is_not_entered(rootfs: Path) -> None:
    with idle(rootfs, "default") as folder:
        pass
    with pytest.raises(StateError, match="is not running"):
        keeper.Keeper(folder)


def test_a_command_for_a_sandbox_that_ends_just_now_says_so(rootfs: Path) -> None:
    policy = build_policy(load_policy("default"))
    words = []
    for delay in range(12):
        options = RunOptions(keep=Keeping(detached=True))
        task = Task(str(rootfs), ("sh", "-c", "exit 0"))
        folder = start_session(policy, task, options)
        time.sleep(delay / 1000)
        try:
            joined(folder, "true")
        except StateError as error:
            words.append(error.what)
        finally:
            with suppress(StateError), keeper.Keeper(folder) as kept:
                kept.wait(10)
            folder.remove()
            folder.close()
    assert words
    assert all("not running" in what or "ended" in what or "enter" in what for what in words)

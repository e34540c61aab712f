"""exec: a further command in a living sandbox, also in one that does what it can against it."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Sbx
from tests.support.terminals import Terminals

Detached = Callable[..., str]
FOREVER = ("sh", "-c", "while :; do sleep 0.05; done")


@pytest.fixture
def box(detached: Detached) -> str:
    return detached(*FOREVER)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("sh", "-c", "exit 42"), 42),
        (("sh", "-c", "kill -TERM $$"), 143),
        (("/nosuch",), 127),
        (("nosuch",), 127),
        (("/etc",), 126),
    ],
)
def test_exit_codes(sbx: Sbx, box: str, words: tuple[str, ...], code: int) -> None:
    done = sbx("exec", box, *words)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_input_environment_folder_and_user(sbx: Sbx, detached: Detached) -> None:
    box = detached(*FOREVER, options=("--root", "-e", "FIRST=1"))
    done = sbx("exec", "-i", box, "cat", input="given")
    assert done.stdout == "given"
    assert sbx("exec", box, "cat", input="given").stdout == ""
    show = "echo $FIRST $SECOND $PASSED; pwd; id -u"
    words = ("-e", "SECOND=2", "--env", "PASSED", "-w", "/tmp", "-u", "1000")
    done = sbx("exec", *words, box, "sh", "-c", show, env={"PASSED": "3"})
    assert done.stdout == "1 2 3\n/tmp\n1000\n"
    unknown = sbx("exec", "-u", "nosuch", box, "true")
    assert unknown.returncode == 125
    assert unknown.stderr.startswith('sbx: error: no user "nosuch" inside\n')
    assert sbx("exec", "-e", "=x", box, "true").returncode == 2


@pytest.mark.parametrize(
    ("folder", "words", "code"),
    [
        ("/nope", ("cannot start in /nope", "there is no such folder inside"), 125),
        ("/etc/passwd", ("cannot start in /etc/passwd", "it is not a folder"), 125),
        ("tmp", ('cannot start in "tmp"', "not an absolute path"), 2),
    ],
)
def test_a_folder_to_start_in_that_is_none(
    sbx: Sbx, box: str, folder: str, words: tuple[str, str], code: int
) -> None:
    done = sbx("exec", "-w", folder, box, "true")
    assert done.returncode == code
    assert words[0] in done.stderr
    assert words[1] in done.stderr
    assert "step " not in done.stderr


def test_a_command_in_the_background(sbx: Sbx, box: str) -> None:
    """It runs when the call returns, its parent is the sandbox's init, and it ends with that."""
    line = "exec 3> /tmp/said; pwd >&3; cat >&3; echo lost; echo $GIVEN >&3; exec sleep 4242.5"
    options = ("-d", "-e", "GIVEN=1", "-w", "/tmp")
    done = sbx("exec", *options, box, "sh", "-c", line, input="not read")
    assert (done.stdout, done.stderr) == ("", "")
    end = time.monotonic() + 30
    while not (found := [one for one in processes(sbx, box) if "4242.5" in one["argv"]]):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert sbx("exec", box, "cat", "/tmp/said").stdout == "/tmp\n1\n"
    shown = sbx("exec", box, "cat", f"/proc/{found[0]['inner_pid']}/status").stdout
    assert "PPid:\t1\n" in shown
    sbx("stop", "-t", "0", box)
    assert not os.path.exists(f"/proc/{found[0]['pid']}")


def processes(sbx: Sbx, box: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sbx("top", "--format", "json", box).stdout)
    return found


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-d", "BOX", "nosuch"), 127, "cannot run nosuch"),
        (("-d", "-w", "/nope", "BOX", "true"), 125, "cannot start in /nope"),
        (("-dt", "BOX", "true"), 2, "--tty: cannot be used with --detach"),
        (("-di", "BOX", "true"), 2, "--interactive: cannot be used with --detach"),
        (("-d", "BOX", "sh", "-c", "exit 3"), 0, ""),
    ],
)
def test_what_is_known_of_a_command_in_the_background(
    sbx: Sbx, box: str, words: tuple[str, ...], code: int, said: str
) -> None:
    done = sbx("exec", *(box if word == "BOX" else word for word in words))
    assert done.returncode == code
    assert said in done.stderr
    assert bool(done.stderr) == bool(said)


def test_the_end_of_one_in_the_background_is_seen_by_nobody(sbx: Sbx, box: str) -> None:
    sbx("exec", "-d", box, "true")
    told = sbx("events", "--no-follow").stdout
    mine = [line for line in told.splitlines() if f" {box} " in line or f"name={box}" in line]
    assert [line.split()[1] for line in mine if "exec" in line] == ["exec_start"]


def test_options_stand_before_the_sandbox(sbx: Sbx, box: str) -> None:
    assert sbx("exec", box, "--", "pwd").stdout == "/\n"
    wrong = sbx("exec", box, "-w", "/tmp", "pwd")
    assert wrong.returncode == 2
    assert "options end at SANDBOX" in wrong.stderr


def test_it_is_the_same_place(sbx: Sbx, detached: Detached) -> None:
    shown = "for n in mnt pid net ipc uts user cgroup; do readlink /proc/self/ns/$n; done"
    box = detached("sh", "-c", f"{shown}; echo ready; {FOREVER[2]}")
    end = time.monotonic() + 30
    while "ready" not in sbx("logs", box).stdout:
        assert time.monotonic() < end
    theirs = sbx("logs", box).stdout.removesuffix("ready\n")
    assert len(theirs.split()) == 7
    assert sbx("exec", box, "sh", "-c", shown).stdout == theirs
    sbx("exec", box, "sh", "-c", "echo kept > /tmp/file")
    assert sbx("exec", box, "cat", "/tmp/file").stdout == "kept\n"


def test_a_terminal_with_resize_and_job_control(sbx: Sbx, box: str, terminals: Terminals) -> None:
    shell = terminals.start([sbx.path, "exec", "-it", box, "sh", "-i"], sbx.env)
    os.write(shell.master, b"stty size; tty\n")
    shell.wait_for(b"30 100")
    os.write(shell.master, b"sleep 60 & echo started $!\n")
    shell.wait_for(b"started ")
    os.write(shell.master, b"jobs; kill -KILL %1; wait; echo over=$((1+1))\n")
    shell.wait_for(b"over=2")
    assert b"can't access tty" not in shell.seen
    os.write(shell.master, b"sleep 50\n")
    while "sleep 50" not in sbx("top", box).stdout:  # within the test's deadline
        pass
    os.write(shell.master, b"\x03")
    os.write(shell.master, b"exit 6\n")
    assert shell.end() == 6


def test_resize_reaches_the_inside(sbx: Sbx, box: str, terminals: Terminals) -> None:
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    shown = terminals.start([sbx.path, "exec", "-it", box, "sh", "-c", script], sbx.env)
    shown.wait_for(b"ready")
    shown.resize(41, 132)
    assert shown.end() == 0
    assert b"41 132" in shown.seen


def test_signals_are_passed_on(sbx: Sbx, box: str) -> None:
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    entered = sbx.start("exec", box, "sh", "-c", script)
    assert entered.stdout
    assert entered.stdout.readline() == b"ready\n"
    entered.send_signal(signal.SIGTERM)
    entered.communicate(timeout=30)
    assert entered.returncode == 9


def test_a_killed_client_leaves_nothing_of_its_command(sbx: Sbx, box: str) -> None:
    entered = sbx.start("exec", box, "sh", "-c", "sleep 1234 & echo up; wait")
    assert entered.stdout
    assert entered.stdout.readline() == b"up\n"
    entered.kill()
    entered.communicate()
    end = time.monotonic() + 20
    while "1234" in sbx("top", box).stdout:
        assert time.monotonic() < end
    assert sbx("exec", box, "true").returncode == 0


def test_it_ends_with_the_sandbox(sbx: Sbx, box: str) -> None:
    entered = sbx.start("exec", box, "sh", "-c", "echo up; sleep 100")
    assert entered.stdout
    assert entered.stdout.readline() == b"up\n"
    assert sbx("kill", box).returncode == 0
    _, err = entered.communicate(timeout=30)
    assert entered.returncode in (125, 137)
    assert b"Traceback" not in err
    assert sbx("exec", box, "true").returncode == 125


# ---- against a hostile sandbox -------------------------------------------------------------------


KILLER = (
    "while :; do for p in /proc/[0-9]*; do p=${p#/proc/}; "
    "[ $p -gt 2 ] && [ $p != $$ ] && kill -KILL $p; done; done 2>/dev/null"
)


@pytest.mark.parametrize("policy", ["default", "permissive"])
def test_a_sandbox_that_kills_whatever_comes(sbx: Sbx, detached: Detached, policy: str) -> None:
    box = detached("sh", "-c", KILLER, options=("--root", "--policy", policy))
    for _ in range(3):
        done = sbx("exec", box, "sleep", "2", timeout=60)
        # The signals of one Landlock domain do not reach another one.
        assert done.returncode in ((0,) if policy == "default" else (125, 137)), done.stderr
        assert "Traceback" not in done.stderr
        assert "internal error" not in done.stderr
    assert sbx("rm", "-f", box).returncode == 0


def test_a_sandbox_that_stops_whatever_comes(sbx: Sbx, detached: Detached) -> None:
    script = KILLER.replace("KILL", "STOP")
    box = detached("sh", "-c", script, options=("--root", "--policy", "permissive"))
    entered = sbx.start("exec", box, "sleep", "1000")
    time.sleep(1)
    assert entered.poll() is None
    assert sbx("stop", "-t", "0", box).returncode == 0
    entered.communicate(timeout=60)
    assert entered.returncode in (125, 137)


FILL = """
import os, time
while True:
    try:
        pid = os.fork()
    except OSError:
        print("full", flush=True)
        time.sleep(0.01)
        continue
    if pid == 0:
        time.sleep(1000)
"""


def test_a_sandbox_that_fills_its_process_limit(
    sbx: Sbx, debian_own: Path, detached: Detached
) -> None:
    options = ("--ulimit", "nproc=20")
    box = detached("python3", "-c", FILL, options=options, root=debian_own)
    end = time.monotonic() + 30
    while "full" not in sbx("logs", "--tail", "1", box).stdout:
        assert time.monotonic() < end
    assert sbx("exec", box, "true").returncode == 0
    done = sbx("exec", box, "sh", "-c", "true & wait")
    assert done.returncode != 0
    assert "fork" in done.stderr
    assert sbx("rm", "-f", box).returncode == 0


def test_into_the_foreground(sbx: Sbx, rootfs: Path) -> None:
    running = sbx.start("run", "-i", "--name", "host1", rootfs, "sh", "-c", "echo up; cat")
    assert running.stdout
    assert running.stdout.readline() == b"up\n"
    assert "host1" in sbx("ps").stdout
    assert sbx("exec", "host1", "sh", "-c", "echo hello").stdout == "hello\n"
    out, _ = running.communicate(b"last", timeout=30)
    assert out == b"last"
    assert "host1" not in sbx("ps", "-a").stdout

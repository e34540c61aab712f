"""-t: a terminal of the sandbox's own, between it and the caller's."""

import os
import termios
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support.terminals import Terminal, Terminals


@pytest.fixture
def terminal(sbx: Sbx, rootfs: Path, terminals: Terminals):  # type: ignore[no-untyped-def]
    def start(*words: str, options: tuple[str, ...] = ("-it",)) -> Terminal:
        return terminals.start([sbx.path, "run", *options, str(rootfs), *words], sbx.env)

    return start


def test_it_is_a_terminal_of_its_own(terminal) -> None:  # type: ignore[no-untyped-def]
    shell = terminal("sh", "-c", "tty; stty size; exit 5")
    assert shell.end() == 5
    assert b"/dev/pts/0" in shell.seen or b"/dev/console" in shell.seen
    assert b"30 100" in shell.seen


def test_input_and_output(terminal) -> None:  # type: ignore[no-untyped-def]
    shell = terminal("sh")
    os.write(shell.master, b"echo $((40+2))\n")
    shell.wait_for(b"42")
    os.write(shell.master, b"exit 6\n")
    assert shell.end() == 6


def test_resize_reaches_the_inside(terminal) -> None:  # type: ignore[no-untyped-def]
    shell = terminal(
        "sh", "-c", "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    )
    shell.wait_for(b"ready")
    shell.resize(41, 132)
    assert shell.end() == 0
    assert b"41 132" in shell.seen


def test_control_c_interrupts_the_command(terminal) -> None:  # type: ignore[no-untyped-def]
    shell = terminal(
        "sh", "-c", "trap 'echo caught; exit 8' INT; echo ready; while :; do sleep 0.05; done"
    )
    shell.wait_for(b"ready")
    os.write(shell.master, b"\x03")
    assert shell.end() == 8
    assert b"caught" in shell.seen


def test_the_callers_terminal_is_restored(terminal) -> None:  # type: ignore[no-untyped-def]
    shell = terminal("sh", "-c", "stty raw -echo; echo ready; sleep 0.2; kill -9 $$")
    before = termios.tcgetattr(shell.master)
    shell.wait_for(b"ready")
    assert shell.end() == 137
    after = termios.tcgetattr(shell.master)
    assert after == before


def test_job_control(terminal) -> None:  # type: ignore[no-untyped-def]
    shell = terminal("sh", "-i")
    os.write(shell.master, b"sleep 60 & echo started $!\n")
    shell.wait_for(b"started ")
    os.write(shell.master, b"jobs; kill -KILL %1; wait; echo over=$((1+1))\n")
    shell.wait_for(b"over=2")
    assert b"can't access tty" not in shell.seen
    os.write(shell.master, b"exit\n")
    shell.end()


# ---- the end of the input ---------------------------------------------------------------------


def test_the_end_of_the_input_is_read_by_every_reader(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "-it", rootfs, "sh", "-c", "cat; cat; echo over", input="no newline")
    assert done.returncode == 0
    assert "over" in done.stdout


@pytest.mark.parametrize(("typed", "code"), [(None, 0), ("exit 3\n", 3)])
def test_the_end_of_the_input_ends_a_shell(
    sbx: Sbx, rootfs: Path, typed: str | None, code: int
) -> None:
    assert sbx("run", "-it", rootfs, "sh", "-i", input=typed).returncode == code


def test_the_end_of_the_input_survives_a_program_that_discards_what_was_typed(
    sbx: Sbx, debian_own: Path
) -> None:
    flush = "import sys, time, termios; time.sleep(0.5); termios.tcflush(0, termios.TCIFLUSH); "
    done = sbx("run", "-it", debian_own, "python3", "-c", f"{flush}print(repr(sys.stdin.read()))")
    assert (done.returncode, done.stdout.strip()) == (0, "''")
    assert sbx("run", "-it", debian_own, "bash").returncode == 0


def test_a_command_that_leaves_its_terminal_goes_on(sbx: Sbx, rootfs: Path) -> None:
    leave = "exec </dev/null >/dev/null 2>&1; sleep 0.3"
    back = "echo back >/dev/console; exit 7"
    done = sbx("run", "-t", rootfs, "sh", "-c", f"{leave}; {back}")
    assert (done.returncode, done.stdout.strip()) == (7, "back")


def test_a_session_that_hangs_up_the_terminal_ends_nothing_else(sbx: Sbx, debian_own: Path) -> None:
    code = """
import fcntl, os, signal, termios, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
fcntl.ioctl(0, termios.TIOCNOTTY)
if os.fork() == 0:
    os.setsid()
    fcntl.ioctl(os.open("/dev/console", os.O_RDWR | os.O_NOCTTY), termios.TIOCSCTTY, 0)
    os._exit(0)
os.wait()
time.sleep(0.3)
os.write(os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY), b"still here")
os._exit(4)
"""
    done = sbx("run", "-t", debian_own, "python3", "-c", code)
    assert (done.returncode, done.stdout.strip()) == (4, "still here")

"""The caller's terminal: raw while it runs, as before afterwards, whatever happens."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import sandbox
from sandbox.runtime.terminal import Terminal, find_terminal

ROOT = Path(sandbox.__file__).parents[1]

# A process of its own with the slave as its controlling terminal, as a shell starts it.
PRELUDE = f"""
import fcntl, os, signal, sys, termios
sys.path.insert(0, {str(ROOT)!r})
from sandbox.runtime.terminal import Terminal
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""


def on_terminal(code: str) -> tuple[str, list[object], list[object]]:
    """Run code with a fresh terminal as stdin; its output, the mode before and after."""
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        stdin=slave,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    after = termios.tcgetattr(slave)
    os.close(master)
    os.close(slave)
    return done.stdout + done.stderr, before, after


def test_raw_mode_and_back() -> None:
    said, before, after = on_terminal("""
import tty
terminal = Terminal(0, typing=True)
terminal.enter()
raw = termios.tcgetattr(0)
terminal.enter()
print(bool(raw[3] & (termios.ECHO | termios.ICANON | termios.ISIG)), bool(raw[1] & termios.OPOST))
terminal.leave()
terminal.leave()
""")
    assert said == "False False\n"
    assert after == before


def test_without_typed_input_the_mode_stays() -> None:
    said, before, after = on_terminal("""
Terminal(0, typing=False).enter()
print(bool(termios.tcgetattr(0)[3] & termios.ISIG))
""")
    assert said == "True\n"
    assert after == before


def test_a_terminal_of_somebody_else_is_left_alone() -> None:
    master, slave = os.openpty()  # not our controlling terminal
    before = termios.tcgetattr(slave)
    terminal = Terminal(slave, typing=True)
    terminal.enter()
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_the_size_is_copied() -> None:
    ours, theirs = os.openpty(), os.openpty()
    fcntl.ioctl(ours[1], termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    Terminal(ours[1], typing=False).copy_size(theirs[0])
    found = fcntl.ioctl(theirs[1], termios.TIOCGWINSZ, bytes(8))
    assert struct.unpack("HHHH", found)[:2] == (33, 101)
    for fd in (*ours, *theirs):
        os.close(fd)


def test_a_size_that_cannot_be_copied_is_no_error() -> None:
    with open(os.devnull) as nowhere:
        Terminal(nowhere.fileno(), typing=True).copy_size(nowhere.fileno())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_first_terminal_is_found(place: int) -> None:
    master, slave = os.openpty()
    null = os.open(os.devnull, os.O_RDWR)
    fds = [null, -1, null]
    assert find_terminal(*fds) is None
    fds[place] = slave
    assert find_terminal(*fds) == slave
    for fd in (master, slave, null):
        os.close(fd)

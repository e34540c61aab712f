"""logs and attach: the output of a sandbox in the background, and being connected to it."""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support.terminals import Terminals

Detached = Callable[..., str]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z "


def wait_for_log(sbx: Sbx, identity: str, text: str) -> None:
    end = time.monotonic() + 30
    while text not in sbx("logs", identity).stdout:
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- logs -------------------------------------------------------------------------------------


def test_both_streams_are_kept_apart(sbx: Sbx, detached: Detached) -> None:
    box = detached("sh", "-c", "echo out; echo err >&2; printf unended")
    assert sbx("wait", box).stdout == "0\n"
    done = sbx("logs", box)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\nunended", "err\n")
    assert sbx("logs", box[:6]).stdout == done.stdout


def test_tail_since_and_timestamps(sbx: Sbx, detached: Detached) -> None:
    box = detached("sh", "-c", "seq 5; sleep 0.3; echo late; exit 3")
    sbx("wait", box)
    assert sbx("logs", "--tail", 2, box).stdout == "5\nlate\n"
    assert sbx("logs", "-n0", box).stdout == ""
    assert sbx("logs", "--tail", "all", box).stdout == "1\n2\n3\n4\n5\nlate\n"
    stamped = sbx("logs", "-t", box).stdout
    assert re.fullmatch(f"(?:{STAMP}[1-5]\n){{5}}{STAMP}late\n", stamped)
    last = stamped.splitlines()[-1].split()[0]
    assert sbx("logs", "--since", last, box).stdout == "late\n"
    assert sbx("logs", "--since", "1h", box).stdout.endswith("5\nlate\n")
    assert sbx("logs", "--since", str(int(time.time()) + 60), box).stdout == ""


@pytest.mark.parametrize("words", [("--tail", "-1"), ("--tail", "x"), ("--since", "yesterday")])
def test_wrong_values(sbx: Sbx, words: tuple[str, str]) -> None:
    done = sbx("logs", *words, "nothing")
    assert done.returncode == 2
    assert words[0] in done.stderr


def test_following_ends_with_the_sandbox_and_misses_nothing(sbx: Sbx, detached: Detached) -> None:
    script = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; sleep 0.5; echo last"
    box = detached("sh", "-c", script)
    done = sbx("logs", "-f", box)
    assert done.returncode == 0
    assert done.stdout == "".join(f"line {i}\n" for i in range(200)) + "last\n"
    assert sbx("logs", "-f", "--tail", 1, box).stdout == "last\n"


def test_following_goes_over_rotations(sbx: Sbx, detached: Detached) -> None:
    script = (
        "sleep 0.5; i=0; while [ $i -lt 1500 ]; do seq 1000 1250; i=$((i+1)); sleep 0.001; done"
    )
    box = detached("sh", "-c", script, options=("--log-max-size", "1M"))
    done = sbx("logs", "-f", box)
    assert done.returncode == 0
    block = "".join(f"{i}\n" for i in range(1000, 1251))
    if "gone" not in done.stderr:
        assert done.stdout == block * 1500
    again = sbx("logs", box)
    assert 250_000 < len(again.stdout) <= 1 << 20
    assert (block * 1500).endswith(again.stdout)
    assert again.stderr.count("the log does not go back to the beginning") == 1


def test_a_flood_does_not_keep_logs_from_ending(sbx: Sbx, detached: Detached) -> None:
    box = detached("sh", "-c", "while :; do seq 1000; done", options=("--log-max-size", "256k"))
    for words in (("--tail", "3"), ()):
        assert sbx("logs", *words, box, timeout=60).returncode == 0
    assert sbx("stop", "-t", "0", box).returncode == 0


def test_a_reader_that_goes_away_ends_it(sbx: Sbx, detached: Detached) -> None:
    box = detached("sh", "-c", "while :; do echo y; sleep 0.05; done")
    follower = sbx.start("logs", "-f", box)
    assert follower.stdout
    assert follower.stdout.read(2) == b"y\n"
    follower.stdout.close()
    assert follower.wait(30) == 141
    follower.communicate()


def test_a_terminal_is_not_steered_by_what_is_shown(
    sbx: Sbx, detached: Detached, terminals: Terminals
) -> None:
    box = detached("sh", "-c", r"printf 'a\033]0;title\007b\tc\r\303\244\n'")
    sbx("wait", box)
    assert sbx("logs", box).stdout == "a\x1b]0;title\x07b\tc\rä\n"
    shown = terminals.start([sbx.path, "logs", box], {**sbx.env, "PYTHONUTF8": "1"})
    assert shown.end() == 0
    assert shown.seen == "a\\x1b]0;title\\x07b\tc\\rä\r\n".encode()
    raw = terminals.start([sbx.path, "logs", "--raw", box], sbx.env)
    assert raw.end() == 0
    assert raw.seen == "a\x1b]0;title\x07b\tc\rä\r\n".encode()


def test_what_a_terminal_of_its_own_showed_is_shown_as_it_was(
    sbx: Sbx, detached: Detached, terminals: Terminals
) -> None:
    box = detached("sh", "-c", r"printf '\033[1mbold\n'", options=("-t",))
    sbx("wait", box)
    shown = terminals.start([sbx.path, "logs", box], sbx.env)
    assert shown.end() == 0
    assert b"\x1b[1mbold" in shown.seen


def test_the_foreground_has_no_log(sbx: Sbx, rootfs: Path) -> None:
    running = sbx.start("run", "-i", "--name", "front", rootfs, "sh", "-c", "echo up; cat")
    assert running.stdout
    assert running.stdout.readline() == b"up\n"
    for word in ("logs", "attach"):
        done = sbx(word, "front")
        assert done.returncode == 125
        assert "goes to its own caller" in done.stderr
    running.communicate(timeout=30)
    assert running.returncode == 0
    assert 'no sandbox "front"' in sbx("logs", "front").stderr


@pytest.mark.parametrize("damage", [b"", b"short", b"\xff" * 4096])
def test_a_damaged_log_is_said_without_a_traceback(
    sbx: Sbx, detached: Detached, damage: bytes
) -> None:
    box = detached("sh", "-c", "echo hello")
    sbx("wait", box)
    log = sbx.home / "state" / "sbx" / box / "log"
    log.write_bytes(damage and log.read_bytes() + damage)
    done = sbx("logs", box)
    assert "internal error" not in done.stderr
    assert done.stdout == ("hello\n" if damage else "")
    assert ("is damaged" in done.stderr) == (len(damage) > 100)
    assert done.returncode == (125 if len(damage) > 100 else 0)


# ---- attach -----------------------------------------------------------------------------------


def test_attach_shows_what_comes_and_ends_with_its_code(sbx: Sbx, detached: Detached) -> None:
    script = "echo before; read go; echo out; echo err >&2; exit 9"
    box = detached("sh", "-c", script, options=("-i",))
    wait_for_log(sbx, box, "before")
    done = sbx("attach", box, input="go\n")
    assert (done.returncode, done.stdout, done.stderr) == (9, "out\n", "err\n")
    assert sbx("attach", box).returncode == 125


ECHO = 'while read a; do echo "got $a"; done; echo end; exit 3'


def test_attach_passes_input_on_and_so_its_end(
    sbx: Sbx, detached: Detached, tmp_path: Path
) -> None:
    for source in ("pipe", "file"):
        box = detached("sh", "-c", ECHO, options=("-i",))
        if source == "pipe":
            attached = sbx.start("attach", box)
            attached.stdin.write(b"one\ntwo\n")  # type: ignore[union-attr]
        else:
            (tmp_path / "in").write_text("one\ntwo\n")
            with (tmp_path / "in").open() as file:
                attached = sbx.start("attach", box, stdin=file)
        out, _ = attached.communicate(timeout=30)
        assert (attached.returncode, out) == (3, b"got one\ngot two\nend\n")


def test_no_input_at_all_is_no_end(sbx: Sbx, detached: Detached) -> None:
    box = detached("sh", "-c", ECHO, options=("-i",))
    watching = sbx.start("attach", box, stdin=subprocess.DEVNULL)
    other = sbx.start("attach", box)
    assert watching.stdout
    assert other.stdin
    # It shows what comes from now on, and nobody can see from when on that is.
    while not select.select([watching.stdout], [], [], 0.2)[0]:
        other.stdin.write(b"one\n")
        other.stdin.flush()
    assert watching.stdout.readline() == b"got one\n"
    assert watching.poll() is None
    other.communicate(timeout=30)
    out, _ = watching.communicate(timeout=30)
    assert (watching.returncode, out.replace(b"got one\n", b"")) == (3, b"end\n")


def test_the_end_of_the_input_reaches_every_start(sbx: Sbx, detached: Detached) -> None:
    box = detached("sh", "-c", ECHO, options=("-i", "--restart", "on-failure:2"))
    done = sbx("attach", box, input="one\n")
    assert (done.returncode, done.stdout) == (3, "got one\nend\nend\nend\n")


def test_attach_without_input(sbx: Sbx, detached: Detached) -> None:
    box = detached("sh", "-c", "read a; echo got $a", options=("-i",))
    attached = sbx.start("attach", "--no-stdin", box)
    attached.stdin.write(b"not this\n")  # type: ignore[union-attr]
    attached.stdin.flush()  # type: ignore[union-attr]
    assert sbx("attach", box, input="that\n").returncode == 0
    attached.communicate(timeout=30)
    assert sbx("logs", box).stdout == "got that\n"


def test_attach_passes_signals_on(sbx: Sbx, detached: Detached) -> None:
    script = "trap 'echo caught; exit 7' INT; read a; echo $a; while :; do sleep 0.05; done"
    box = detached("sh", "-c", script, options=("-i",))
    attached = sbx.start("attach", box)
    attached.stdin.write(b"there\n")  # type: ignore[union-attr]
    attached.stdin.flush()  # type: ignore[union-attr]
    assert attached.stdout
    assert attached.stdout.readline() == b"there\n"
    attached.send_signal(signal.SIGINT)
    out, _ = attached.communicate(timeout=30)
    assert (attached.returncode, out) == (7, b"caught\n")


def test_attach_to_a_terminal_of_its_own(
    sbx: Sbx, detached: Detached, terminals: Terminals
) -> None:
    box = detached("sh", "-i", options=("-it",))
    first = terminals.start([sbx.path, "attach", box], sbx.env)
    os.write(first.master, b"stty size; echo sum=$((40+2))\n")
    first.wait_for(b"sum=42")
    assert b"30 100" in first.seen
    first.resize(41, 132)
    os.write(first.master, b"until stty size | grep '41 132'; do sleep 0.1; done\n")
    first.wait_for(b"41 132\r\n")
    os.write(first.master, b"\x10\x11")
    first.wait_for(b"which goes on")
    assert first.end() == 0
    assert box in sbx("ps", "-q").stdout
    second = terminals.start([sbx.path, "attach", "--detach-keys", "ctrl-a,d", box], sbx.env)
    os.write(second.master, b"echo now=$((1+2)); sleep 60\n")
    second.wait_for(b"now=3")
    while "sleep 60" not in sbx("top", box).stdout:  # within the test's deadline
        pass
    os.write(second.master, b"\x03echo after=$((1+1))\n")
    second.wait_for(b"after=2")
    os.write(second.master, b"exit 4\n\x04")
    assert second.end() == 4


def test_wrong_keys(sbx: Sbx) -> None:
    done = sbx("attach", "--detach-keys", "ctrl-p,escape", "x")
    assert done.returncode == 2
    assert "escape" in done.stderr


def test_attach_goes_on_over_a_restart(sbx: Sbx, detached: Detached) -> None:
    script = "read a; echo got $a; [ $a = two ]"
    box = detached("sh", "-c", script, options=("-i", "--restart", "on-failure:3"))
    attached = sbx.start("attach", box)
    attached.stdin.write(b"one\n")  # type: ignore[union-attr]
    attached.stdin.flush()  # type: ignore[union-attr]
    assert attached.stdout
    assert attached.stdout.readline() == b"got one\n"
    end = time.monotonic() + 30
    while '"restarts": 1' not in sbx("inspect", box).stdout:
        assert time.monotonic() < end
    time.sleep(0.3)
    out, _ = attached.communicate(b"two\n", timeout=30)
    assert (attached.returncode, out) == (0, b"got two\n")

"""wait, kill, stop, pause, unpause, rm, prune, rename: what is done to sandboxes from outside."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.e2e.conftest import folders

Detached = Callable[..., str]
FOREVER = ("sh", "-c", "while :; do sleep 0.05; done")
STUBBORN = ("sh", "-c", "trap '' TERM; echo ready; sleep 1000 & while :; do sleep 0.05; done")


def state(sbx: Sbx, box: str) -> str:
    (found,) = json.loads(sbx("inspect", box).stdout)
    return str(found["state"])


def pids_of(sbx: Sbx, box: str) -> list[int]:
    return [one["pid"] for one in json.loads(sbx("top", "--format", "json", box).stdout)]


def wait_until_it_waits(waiting: subprocess.Popen[bytes]) -> None:
    """Until `sbx wait` holds the pidfd of the launcher."""

    def holds_one() -> bool:
        for fd in Path(f"/proc/{waiting.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                if "pidfd" in os.readlink(fd):
                    return True
        return False

    end = time.monotonic() + 30
    while not holds_one():
        assert time.monotonic() < end
        assert waiting.poll() is None
        time.sleep(0.02)


def wait_for_log(sbx: Sbx, box: str, text: str) -> None:
    end = time.monotonic() + 30
    while text not in sbx("logs", box).stdout:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_wait_prints_the_codes_in_order(sbx: Sbx, detached: Detached) -> None:
    slow = detached("sh", "-c", "sleep 0.5; exit 3", options=("--name", "slow"))
    quick = detached("sh", "-c", "kill -KILL $$")
    late = detached("sleep", "100", options=("--timeout", "0.2s"))
    done = sbx("wait", "slow", quick, late)
    assert (done.returncode, done.stdout) == (0, "3\n137\n124\n")
    missing = sbx("wait", "nosuch", slow)
    assert (missing.returncode, missing.stdout) == (125, "3\n")
    assert 'no sandbox "nosuch"' in missing.stderr


def test_wait_for_one_that_removes_itself(sbx: Sbx, detached: Detached) -> None:
    script = "trap 'exit 6' USR1; echo ready; while :; do sleep 0.05; done"
    box = detached("sh", "-c", script, options=("--rm",))
    wait_for_log(sbx, box, "ready")
    waiting = sbx.start("wait", box)
    wait_until_it_waits(waiting)
    assert sbx("kill", "-s", "USR1", box).returncode == 0
    out, _ = waiting.communicate(timeout=30)
    assert out == b"6\n"
    sbx("ps")
    assert box not in folders(sbx)


def test_kill_sends_a_signal(sbx: Sbx, detached: Detached) -> None:
    script = "trap 'exit 42' USR1; echo ready; while :; do sleep 0.05; done"
    box = detached("sh", "-c", script)
    wait_for_log(sbx, box, "ready")
    done = sbx("kill", "-s", "usr1", box)
    assert (done.returncode, done.stdout) == (0, f"{box}\n")
    assert sbx("wait", box).stdout == "42\n"
    after = sbx("kill", box)
    assert after.returncode == 125
    assert "is not running" in after.stderr
    assert sbx("kill", "-s", "NOSUCH", box).returncode == 2
    assert sbx("kill", "-s", "99", box).returncode == 2


@pytest.mark.parametrize(("words", "code"), [(("kill",), "137"), (("stop", "-t", "0.3"), "137")])
def test_all_are_dead_on_return(
    sbx: Sbx, detached: Detached, words: tuple[str, ...], code: str
) -> None:
    box = detached(*STUBBORN)
    wait_for_log(sbx, box, "ready")
    pids = pids_of(sbx, box)
    assert len(pids) >= 3
    assert sbx(*words, box).returncode == 0
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
    assert sbx("wait", box).stdout == f"{code}\n"


def test_stop_lets_a_command_end_by_itself(sbx: Sbx, detached: Detached) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    one, two = detached("sh", "-c", script), detached("sh", "-c", script, options=("--name", "two"))
    for box in (one, two):
        wait_for_log(sbx, box, "ready")
    done = sbx("stop", one, "two")
    assert (done.returncode, done.stdout) == (0, f"{one}\ntwo\n")
    assert sbx("wait", one, two).stdout == "5\n5\n"
    assert sbx("logs", one).stdout.endswith("bye\n")
    assert sbx("stop", one).returncode == 0


def test_stop_ends_a_paused_one_and_one_that_restarts(sbx: Sbx, detached: Detached) -> None:
    script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    paused = detached("sh", "-c", script, options=("--restart", "on-failure"))
    wait_for_log(sbx, paused, "ready")
    assert sbx("pause", paused).returncode == 0
    failing = detached("false", options=("--restart", "on-failure"))
    assert sbx("stop", paused, failing).returncode == 0
    assert sbx("wait", paused).stdout == "5\n"
    assert state(sbx, failing) in ("exited", "dead")


def test_pause_stops_everything_and_unpause_lets_it_go_on(sbx: Sbx, detached: Detached) -> None:
    box = detached("sh", "-c", "sleep 1000 & while :; do echo tick; sleep 0.05; done")
    wait_for_log(sbx, box, "tick")
    assert sbx("pause", box).stdout == f"{box}\n"
    assert state(sbx, box) == "paused"
    assert "paused" in sbx("ps").stdout
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = json.loads(sbx("top", "--format", "json", box).stdout)
        if all(one["state"] == "T" for one in found if one["inner_pid"] != 1):
            break
    else:
        raise AssertionError(found)
    before = len(sbx("logs", box).stdout)
    time.sleep(0.3)
    assert len(sbx("logs", box).stdout) == before
    again, entered = sbx("pause", box), sbx("exec", box, "true")
    assert again.returncode == entered.returncode == 125
    assert "it is paused" in again.stderr
    assert "is paused" in entered.stderr
    assert "sbx unpause" in entered.stderr
    assert sbx("unpause", box).returncode == 0
    assert state(sbx, box) == "running"
    assert sbx("unpause", box).returncode == 125
    end = time.monotonic() + 20
    while len(sbx("logs", box).stdout) == before:
        assert time.monotonic() < end
    assert sbx("kill", box).returncode == 0


def test_pause_needs_our_init(sbx: Sbx, detached: Detached) -> None:
    box = detached(*FOREVER, options=("--no-init",))
    done = sbx("pause", box)
    assert done.returncode == 125
    assert "--no-init" in done.stderr
    assert sbx("stop", "-t", "0", box).returncode == 0


def launcher_of(sbx: Sbx, box: str) -> int:
    (found,) = json.loads(sbx("inspect", box).stdout)
    return int(found["pid"])


def test_a_signal_to_the_launcher_is_the_commands(sbx: Sbx, detached: Detached) -> None:
    traps = "trap 'echo bye; exit 5' TERM; trap 'echo hup; exit 6' HUP"
    script = f"{traps}; echo ready; while :; do sleep 0.05; done"
    for number, code in ((signal.SIGTERM, "5"), (signal.SIGHUP, "6")):
        box = detached("sh", "-c", script, options=("--restart", "on-failure"))
        wait_for_log(sbx, box, "ready")
        os.kill(launcher_of(sbx, box), number)
        assert sbx("wait", box).stdout == f"{code}\n"
        (found,) = json.loads(sbx("inspect", box).stdout)
        assert [one["signal"] for one in found["history"] if one["what"] == "order"] == [
            number.name
        ]


def test_a_signal_to_the_launcher_ends_the_starting_anew(sbx: Sbx, detached: Detached) -> None:
    box = detached("false", options=("--restart", "on-failure"))
    end = time.monotonic() + 30
    while state(sbx, box) != "restarting":
        assert time.monotonic() < end
    os.kill(launcher_of(sbx, box), signal.SIGTERM)
    assert sbx("wait", box).stdout == "1\n"


def test_a_signal_to_the_launcher_of_a_joined_command_ends_that(
    sbx: Sbx, detached: Detached
) -> None:
    box = detached(*FOREVER)
    entered = sbx.start("exec", box, "sh", "-c", "trap '' TERM; echo up; sleep 300")
    assert entered.stdout
    assert entered.stdout.readline() == b"up\n"
    (launcher,) = Path(f"/proc/{entered.pid}/task/{entered.pid}/children").read_text().split()
    os.kill(int(launcher), signal.SIGTERM)
    _, said = entered.communicate(timeout=30)
    # Under load it may be over before anybody was told that the command runs.
    assert entered.returncode in (125, 137)
    assert b"what look" in said
    assert b"was killed" in said
    assert not any(
        "sleep 300" in " ".join(one["argv"])
        for one in json.loads(sbx("top", "--format", "json", box).stdout)
    )
    assert state(sbx, box) == "running"


def test_words_work_on_the_foreground_too(sbx: Sbx, rootfs: Path) -> None:
    running = sbx.start("run", "-i", "--name", "front", rootfs, "sh", "-c", "echo up; cat")
    assert running.stdout
    assert running.stdout.readline() == b"up\n"
    assert "front" in sbx("ps").stdout
    assert sbx("exec", "front", "sh", "-c", "exit 3").returncode == 3
    for word in ("pause", "unpause"):
        assert sbx(word, "front").returncode == 0
    assert sbx("rm", "front").returncode == 125
    waiting = sbx.start("wait", "front")
    wait_until_it_waits(waiting)
    assert sbx("kill", "front").returncode == 0
    running.communicate(timeout=30)
    assert running.returncode == 137
    assert waiting.communicate(timeout=30)[0] == b"137\n"
    assert "front" not in sbx("ps", "-a").stdout


# ---- removal and names ---------------------------------------------------------------------------


def test_rm(sbx: Sbx, detached: Detached) -> None:
    ended, running = detached("true"), detached(*FOREVER)
    sbx("wait", ended)
    done = sbx("rm", ended, running)
    assert (done.returncode, done.stdout) == (125, f"{ended}\n")
    assert "is running" in done.stderr
    assert "rm -f" in done.stderr
    pids = pids_of(sbx, running)
    assert sbx("rm", "-f", running, "nosuch").returncode == 0
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
    assert not {ended, running} & folders(sbx)
    assert sbx("rm", running).returncode == 125


def test_rm_removes_the_copy_of_the_root(sbx: Sbx, detached: Detached) -> None:
    box = detached(*FOREVER, options=("--storage", "copy"))
    runs = sbx.cache / "sbx" / "runs"
    assert [p for p in runs.iterdir() if p.name != ".gate"]
    assert sbx("rm", "-f", box).returncode == 0
    assert [p for p in runs.iterdir() if p.name != ".gate"] == []


def test_prune_removes_what_has_ended_and_says_what(sbx: Sbx, detached: Detached) -> None:
    living = detached(*FOREVER)
    one = detached("sh", "-c", "echo output", options=("--name", "first"))
    two = detached("true", options=("--storage", "copy"))
    sbx("wait", one, two)
    done = sbx("prune", "-f")
    assert done.returncode == 0
    assert f"{one} first\n" in done.stdout
    assert two in done.stdout
    assert "/runs/" in done.stdout
    assert "freed: " in done.stdout
    assert living not in done.stdout
    assert folders(sbx) >= {living}
    assert not {one, two} & folders(sbx)


@pytest.mark.parametrize("word", ["prune", "rm"])
def test_one_of_which_nothing_can_be_read_is_removed(
    sbx: Sbx, detached: Detached, word: str
) -> None:
    box = detached("true", options=("--name", "spoilt"))
    sbx("wait", box)
    state = sbx.home / "state" / "sbx"
    (state / box / "sandbox").write_bytes(b"another version's")
    shown = sbx("ps")
    assert f"cannot read the state in {state / box}" in shown.stderr
    assert "sbx prune removes it" in shown.stderr
    assert f"sbx rm -f {box}" in sbx("inspect", box).stderr
    assert sbx("rm", box).returncode == 125
    done = sbx("prune", "-f") if word == "prune" else sbx("rm", "-f", box)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{box}\n")
    assert box not in folders(sbx)
    assert not (state / "names" / "spoilt").is_symlink()
    assert sbx("ps", "-a").stderr == ""


def test_one_that_lives_is_killed_though_nothing_can_be_read(sbx: Sbx, detached: Detached) -> None:
    box = detached(*FOREVER)
    pids = pids_of(sbx, box)
    (sbx.home / "state" / "sbx" / box / "sandbox").write_bytes(b"another version's")
    assert f"sbx rm -f {box} removes it" in sbx("ps").stderr
    assert box not in sbx("prune", "-f").stdout
    assert box in folders(sbx)
    assert sbx("rm", "-f", box).returncode == 0
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
    assert box not in folders(sbx)


def test_a_time_limit_that_nobody_asked_for_is_told(sbx: Sbx, rootfs: Path) -> None:
    for options, told in (
        ((), True),
        (("--timeout", "0"), False),
        (("--timeout", "5m"), False),
        (("--policy", "permissive"), False),
        (("--quiet",), False),
    ):
        done = sbx("run", "-d", *options, rootfs, *FOREVER)
        words = "it will be ended 1h from now: the time limit of policy default; --timeout 0"
        assert (words in done.stderr) == told, (options, done.stderr)
        assert sbx("rm", "-f", done.stdout.strip()).returncode == 0


def test_prune_asks_on_a_terminal(sbx: Sbx, detached: Detached, terminals) -> None:  # type: ignore[no-untyped-def]
    box = detached("true")
    sbx("wait", box)
    asked = terminals.start([sbx.path, "prune"], sbx.env)
    asked.wait_for(b"go on?")
    os.write(asked.master, b"n\n")
    assert asked.end() == 1
    assert box in folders(sbx)
    asked = terminals.start([sbx.path, "prune"], sbx.env)
    asked.wait_for(b"go on?")
    os.write(asked.master, b"y\n")
    assert asked.end() == 0
    assert box not in folders(sbx)


def test_rename(sbx: Sbx, detached: Detached) -> None:
    box = detached(*FOREVER, options=("--name", "before"))
    other = detached(*FOREVER, options=("--name", "other"))
    assert sbx("rename", "before", "after").returncode == 0
    assert 'no sandbox "before"' in sbx("inspect", "before").stderr
    assert json.loads(sbx("inspect", "after").stdout)[0]["id"] == box
    taken = sbx("rename", other, "after")
    assert taken.returncode == 125
    assert "is taken" in taken.stderr
    assert sbx("rename", other, "not/a name").returncode == 2
    assert sbx("rename", "nosuch", "x").returncode == 125
    assert sbx("rename", "after", "after").returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ("exec", "X", "true"), ("inspect", "X"), ("kill", "X"), ("logs", "X"), ("pause", "X"),
        ("port", "X"), ("rename", "X", "y"), ("rm", "X"), ("stats", "X"), ("stop", "X"),
        ("top", "X"), ("unpause", "X"), ("wait", "X"),
    ],
)  # fmt: skip
def test_one_that_is_not_there_is_an_error(sbx: Sbx, words: tuple[str, ...]) -> None:
    done = sbx(*words)
    assert (done.returncode, done.stdout) == (125, "")
    first, *rest = done.stderr.splitlines()
    assert first == 'sbx: error: no sandbox "X"'
    assert [line.split(":")[0] for line in rest] == ["  cause", "  hint"]


@pytest.mark.parametrize(
    "words",
    [("attach",), ("events", "--since", "never"), ("stop", "-t", "soon", "X"), ("wait",)],
)
def test_wrong_usage_is_an_error(sbx: Sbx, words: tuple[str, ...]) -> None:
    done = sbx(*words)
    assert (done.returncode, done.stdout) == (2, "")
    first, *rest = done.stderr.splitlines()
    assert first.startswith("sbx: error: ")
    assert all(line.startswith("  ") for line in rest)

"""inspect, events, top, stats, port: what can be seen of sandboxes."""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.conftest import Sbx

Detached = Callable[..., str]
FOREVER = ("sh", "-c", "while :; do sleep 0.05; done")


# ---- inspect -----------------------------------------------------------------------------------


def test_inspect_says_what_the_report_of_a_run_says(
    sbx: Sbx, rootfs: Path, detached: Detached, tmp_path: Path
) -> None:
    words = ("sh", "-c", "echo out; exit 5")
    box = detached(*words, options=("--policy", "strict", "--name", "twin"))
    sbx("wait", box)
    report = tmp_path / "report"
    sbx("run", "--policy", "strict", "--name", "twin2", "--report", report, rootfs, *words)
    (found,) = json.loads(sbx("inspect", box).stdout)
    expected = json.loads(report.read_text())
    assert list(found["report"]) == list(expected)
    varying = {"name", "wall_s", "cpu_user_s", "cpu_system_s", "peak_rss_bytes", "pid", "notes"}
    for key in set(expected) - varying:
        assert found["report"][key] == expected[key], key
    assert found["schema"] == "sbx.inspect/1"
    assert (found["state"], found["exit_code"], found["name"]) == ("exited", 5, "twin")
    assert [moment["what"] for moment in found["history"]] == [
        "started",
        "running",
        "exited",
        "done",
    ]
    assert found["layers"] == expected["layers"]


@pytest.mark.parametrize(
    ("words", "options", "after", "reason", "code"),
    [
        (("sh", "-c", "kill -USR1 $$"), (), (), "signalled", 138),
        (("sleep", "100"), ("--timeout", "0.2s"), (), "timeout", 124),
        (FOREVER, (), ("kill",), "signalled", 137),
        (FOREVER, (), ("stop", "-t0"), "signalled", 137),
    ],
)
def test_reasons(
    sbx: Sbx,
    detached: Detached,
    words: tuple[str, ...],
    options: tuple[str, ...],
    after: tuple[str, ...],
    reason: str,
    code: int,
) -> None:
    box = detached(*words, options=options)
    if after:
        assert sbx(*after, box).returncode == 0
    assert sbx("wait", box).stdout == f"{code}\n"
    (found,) = json.loads(sbx("inspect", box).stdout)
    assert (found["report"]["reason"], found["report"]["exit_code"]) == (reason, code)
    assert found["exit_code"] == code


def test_inspect_of_a_running_one(sbx: Sbx, detached: Detached) -> None:
    box, other = detached(*FOREVER, options=("-t", "--rm")), detached("true")
    found = json.loads(sbx("inspect", box, other).stdout)
    assert [one["id"] for one in found] == [box, other]
    assert found[0]["report"] is None
    assert (found[0]["state"], found[0]["tty"], found[0]["auto_remove"]) == ("running", True, True)
    assert Path(f"/proc/{found[0]['init_pid']}/comm").read_text() == "init\n"
    text = sbx("inspect", "--format", "text", box).stdout
    shown = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert (shown["state"], shown["tty"], shown["input"]) == ("running", "yes", "no")
    assert "{'" not in text


def test_arguments_cannot_steer_the_terminal(sbx: Sbx, detached: Detached) -> None:
    box = detached("sh", "-c", "while :; do sleep 0.05; done", "\x1b]0;x\x07\u202e")
    for words in (("top", box), ("inspect", "--format", "text", box), ("ps",), ("inspect", box)):
        shown = sbx(*words).stdout
        assert shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown


@pytest.mark.parametrize("damage", ["", "short", "long"])
@pytest.mark.parametrize("name", ["events", "plan", "sandbox"])
def test_damaged_files_give_no_traceback(
    sbx: Sbx, detached: Detached, name: str, damage: str
) -> None:
    box = detached("sh", "-c", "exit 3")
    sbx("wait", box)
    path = sbx.home / "state" / "sbx" / box / name
    whole = path.read_bytes()
    path.write_bytes({"": b"", "short": whole[:-3], "long": whole[:40] + b"\xff" * 600}[damage])
    for words in (("inspect", box), ("ps", "-a"), ("logs", box), ("wait", box), ("events", "-F")):
        done = sbx(*words)
        assert "internal error" not in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr
    path.write_bytes(whole)


# ---- events ------------------------------------------------------------------------------------


@pytest.fixture
def watching(sbx: Sbx, detached: Detached) -> Iterator[IO[bytes]]:
    """What `sbx events` prints, as JSON; what it has to say of a first sandbox has been read."""
    first = detached(*FOREVER)
    with sbx.start("events", "--since", "1h", "--format", "json") as started:
        try:
            assert started.stdout
            seen: list[str] = []
            while seen != ["create", "start"]:
                one = json.loads(started.stdout.readline())
                seen += [one["action"]] * (one["id"] == first)
            yield started.stdout
        finally:
            started.terminate()


def test_events_from_now_on(sbx: Sbx, detached: Detached) -> None:
    box = detached(*FOREVER)
    with sbx.start("events") as started:
        try:
            assert started.stdout
            while not select.select([started.stdout], [], [], 0)[0]:
                assert sbx("kill", "-s", "WINCH", box).returncode == 0
            line = started.stdout.readline().decode()
        finally:
            started.terminate()
    assert line.split()[1:3] == ["kill", box]
    assert "signal=SIGWINCH" in line


def test_events_as_they_happen(sbx: Sbx, detached: Detached, watching: IO[bytes]) -> None:
    box = detached(*FOREVER, options=("--name", "watched"))
    for words in (("pause",), ("unpause",), ("kill", "-s", "WINCH"), ("rename",), ("stop",)):
        more = ("renamed",) if words == ("rename",) else ()
        assert sbx(*words, box, *more).returncode == 0
    assert sbx("rm", box).returncode == 0
    found: list[dict[str, object]] = []
    while not found or found[-1]["action"] != "destroy":
        found.append(json.loads(watching.readline()))
        assert found[-1]["id"] == box
    assert [one["action"] for one in found] == [
        "create", "start", "pause", "unpause", "kill", "rename", "kill", "die", "stop", "destroy",
    ]  # fmt: skip
    by = {one["action"]: one for one in found}
    assert by["rename"]["old_name"] == "watched"
    assert by["rename"]["name"] == "renamed"
    assert by["die"]["exit_code"] == 143
    assert found[4]["signal"] == "SIGWINCH"
    assert [one["at_s"] for one in found] == sorted(float(str(one["at_s"])) for one in found)


def test_events_of_further_commands(sbx: Sbx, detached: Detached, watching: IO[bytes]) -> None:
    box = detached(*FOREVER)
    assert [json.loads(watching.readline())["action"] for _ in range(2)] == ["create", "start"]
    for words, code in ((("sh", "-c", "exit 3"), 3), (("nosuch",), 127), (("true",), 0)):
        assert sbx("exec", box, *words).returncode == code
        start, end = (json.loads(watching.readline()) for _ in range(2))
        assert (start["action"], end["action"]) == ("exec_start", "exec_die")
        assert (start["id"], start["command"]) == (box, " ".join(words))
        assert start["exec_id"] == end["exec_id"]
        assert end["exit_code"] == code
    told = [
        json.loads(line)
        for line in sbx("events", "-F", "--format", "json").stdout.split("\n")
        if line
    ]
    assert [one["action"] for one in told if one["id"] == box].count("exec_die") == 3


def test_events_of_the_foreground_and_of_a_killed_launcher(
    sbx: Sbx, rootfs: Path, detached: Detached, watching: IO[bytes]
) -> None:
    with sbx.start("run", "-i", "--name", "brief", rootfs, "sh", "-c", "read x; exit 7") as brief:
        found = [json.loads(watching.readline()) for _ in range(2)]
        brief.communicate(b"go on\n", timeout=30)
    found += [json.loads(watching.readline()) for _ in range(2)]
    assert [one["action"] for one in found] == ["create", "start", "die", "destroy"]
    assert found[2]["exit_code"] == 7
    box = detached(*FOREVER)
    (shown,) = json.loads(sbx("inspect", box).stdout)
    os.kill(shown["pid"], signal.SIGKILL)
    found = [json.loads(watching.readline()) for _ in range(3)]
    assert [one["action"] for one in found] == ["create", "start", "die"]
    assert found[2]["exit_code"] == 137


def test_events_of_the_past(sbx: Sbx, detached: Detached) -> None:
    box = detached("sh", "-c", "exit 4")
    sbx("wait", box)
    done = sbx("events", "--no-follow")
    mine = [line for line in done.stdout.splitlines() if box in line]
    assert [line.split()[1] for line in mine] == ["create", "start", "die"]
    assert sbx("events", "--no-follow", "--since", f"{time.time() + 60:.3f}").stdout == ""


# ---- processes and what they use ---------------------------------------------------------------


def test_top_shows_all_processes_and_no_others(sbx: Sbx, detached: Detached) -> None:
    box, other = detached(*FOREVER, options=("--root",)), detached("sleep", "4321")
    entered = sbx.start("exec", box, "sh", "-c", "sleep 1234 & echo up; wait")
    assert entered.stdout
    assert entered.stdout.readline() == b"up\n"
    found = json.loads(sbx("top", "--format", "json", box).stdout)
    lines = [" ".join(one["argv"]) for one in found]
    assert "sleep 1234" in lines
    assert any("echo up" in line for line in lines)
    assert not any("4321" in line for line in lines)
    assert found[0]["inner_pid"] == 1
    assert all(one["inner_pid"] > 1 for one in found[1:])
    assert {one["user"] for one in found} == {0}
    table = sbx("top", box).stdout.splitlines()
    assert table[0].split() == ["PID", "INSIDE", "USER", "STATE", "CPU", "MEMORY", "COMMAND"]
    assert len(table) >= 5
    assert sbx("kill", box, other).returncode == 0
    entered.communicate(timeout=30)
    assert sbx("top", box).returncode == 125


def test_stats(sbx: Sbx, detached: Detached) -> None:
    busy = detached("sh", "-c", "while :; do :; done")
    idle = detached("sleep", "100")
    found = json.loads(sbx("stats", "--no-stream", "--format", "json").stdout)
    by = {one["id"]: one for one in found}
    assert by[busy]["cpu_percent"] > 10 > by[idle]["cpu_percent"]
    for one in (by[busy], by[idle]):
        assert one["pids"] >= 2
        assert 10_000 < one["memory_bytes"] < 50 << 20
        assert one["memory_kind"] in ("pss", "rss")
        assert one["received_bytes"] == one["sent_bytes"] == 0
    table = sbx("stats", "--no-stream", idle).stdout.splitlines()
    assert len(table) == 2
    assert idle in table[1]
    sbx("kill", busy, idle)
    assert sbx("stats", "--no-stream", idle).returncode == 125
    assert json.loads(sbx("stats", "--no-stream", "--format", "json").stdout) == []


def test_stats_of_the_hosts_network_are_unknown(sbx: Sbx, detached: Detached) -> None:
    box = detached(*FOREVER, options=("--network", "host", "--policy", "permissive"))
    (found,) = json.loads(sbx("stats", "--no-stream", "--format", "json", box).stdout)
    assert found["received_bytes"] is None
    assert "- / -" in sbx("stats", "--no-stream", box).stdout


def test_stats_go_on_until_all_named_have_ended(sbx: Sbx, detached: Detached) -> None:
    box = detached("sleep", "100")
    watching = sbx.start("stats", "--format", "json", box)
    assert watching.stdout
    assert json.loads(watching.stdout.readline())[0]["id"] == box
    sbx("kill", box)
    watching.communicate(timeout=30)
    assert watching.returncode == 0


def test_port(sbx: Sbx, detached: Detached) -> None:
    box = detached(*FOREVER)
    done = sbx("port", box)
    assert (done.returncode, done.stdout) == (0, "")
    assert "no port" in done.stderr

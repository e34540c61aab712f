"""Time, output and resources are bounded."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support.schema import violations


def test_timeout_ends_a_command_that_ignores_signals(
    sbx: Sbx, rootfs: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    done = sbx(
        "run",
        "--timeout",
        "0.5",
        "--report",
        tmp_path / "r",
        rootfs,
        "sh",
        "-c",
        "trap '' TERM INT HUP; while :; do sleep 1; done",
    )
    assert done.returncode == 124
    assert time.monotonic() - began < 20
    assert json.loads((tmp_path / "r").read_text())["reason"] == "timeout"


def test_timeout_lets_a_command_end_in_its_own_way(sbx: Sbx, rootfs: Path) -> None:
    done = sbx(
        "run",
        "--timeout",
        "0.5",
        rootfs,
        "sh",
        "-c",
        "trap 'echo bye; exit 0' TERM; sleep 30 & wait",
    )
    assert (done.returncode, done.stdout) == (124, "bye\n")


def test_timeout_ends_what_runs_in_the_background(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", rootfs, "sh", "-c", "sleep 300 & sleep 300 & exit 4").returncode == 4


def test_output_past_the_limit_is_dropped_and_counted(
    sbx: Sbx, rootfs: Path, tmp_path: Path
) -> None:
    words = ("--output-limit", "64K", "--report", tmp_path / "r", rootfs, "head", "-c", "1000000")
    done = sbx("run", *words, "/dev/zero")
    report = json.loads((tmp_path / "r").read_text())
    assert (report["reason"], report["code"]) == ("output-limit", 0)
    assert report["output_bytes"] == len(done.stdout) == 64 << 10
    assert report["output_bytes"] + report["output_dropped_bytes"] == 1_000_000


def test_ulimit(sbx: Sbx, rootfs: Path) -> None:
    done = sbx(
        "run",
        "--ulimit",
        "nofile=64:128",
        "--ulimit",
        "core=0",
        rootfs,
        "sh",
        "-c",
        "ulimit -Sn; ulimit -Hn; ulimit -c",
    )
    assert done.stdout == "64\n128\n0\n", done.stderr


def test_process_limit_counts_the_whole_sandbox(sbx: Sbx, rootfs: Path) -> None:
    script = "i=0; while [ $i -lt 400 ]; do sleep 5 & i=$((i+1)); done; echo all"
    done = sbx("run", "--policy", "strict", rootfs, "sh", "-c", script)
    assert "all" not in done.stdout
    assert done.returncode != 0


def without_groups(sbx: Sbx) -> Path:
    """A policy that takes no control group, wherever the tests run."""
    path = sbx.home / "without-groups.toml"
    path.write_text('extends = "default"\n[resources]\ndriver = "none"\n')
    return path


def test_a_limit_of_processes_holds_without_a_control_group(
    sbx: Sbx, rootfs: Path, tmp_path: Path
) -> None:
    words = ("--policy", without_groups(sbx), "--pids-limit", "12", "--report", tmp_path / "r")
    script = "i=0; while [ $i -lt 30 ]; do sleep 9 & echo; i=$((i+1)); done; echo all"
    done = sbx("run", *words, rootfs, "sh", "-c", script)
    assert "all" not in done.stdout
    assert 6 <= done.stdout.count("\n") < 12
    assert "RLIMIT_NPROC bounds all its processes to 12" in done.stderr
    (lost,) = [row for row in json.loads((tmp_path / "r").read_text())["degradations"]
               if "12 processes" in row["lost"]]  # fmt: skip
    assert lost["layer"] == "cgroup"


def test_figures_without_a_control_group(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    """CPU time, memory and bytes written are those of the whole tree, as far as it was waited for,
    and what cannot be known is null with the reason."""
    (tmp_path / "out").mkdir()
    spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
    script = f"(head -c 20000000 /dev/zero | tail -c 20000000 >/out/x); ({spin}); sh -c '({spin})'"
    words = ("--policy", without_groups(sbx), "-v", f"{tmp_path}/out:/out")
    done = sbx("run", *words, "--report", tmp_path / "r", rootfs, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r").read_text())
    figures = report["figures"]
    assert report["cpu_user_s"] > 0.04
    assert report["peak_rss_bytes"] > 20_000_000
    on_disk = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, check=True)
    if on_disk.stdout != b"tmpfs\n":
        assert 20_000_000 <= report["written_bytes"] < 40_000_000
    for name in ("cpu", "peak_rss_bytes", "written_bytes"):
        assert figures[name]["sure"] == "at-least"
    for name in ("memory_peak_bytes", "pids_peak", "oom_kills"):
        assert report[name] is None
        assert figures[name]["sure"] == "unknown"
        assert 'resources.driver is "none"' in figures[name]["why"]


def test_limits_of_the_whole_sandbox_that_cannot_be_had(
    sbx: Sbx, rootfs: Path, tmp_path: Path
) -> None:
    """Said under every policy; the strict one refuses."""
    for name in ("strict", "default", "ci"):
        policy = tmp_path / f"{name}.toml"
        policy.write_text(f'extends = "{name}"\n[resources]\ndriver = "none"\n')
        done = sbx("run", "--policy", policy, "--memory", "64M", rootfs, "true")
        if name == "strict":
            assert done.returncode == 125
            assert "cannot limit the whole sandbox to 64M of memory" in done.stderr
        else:
            assert done.returncode == 0, done.stderr
            assert "without limits of the whole sandbox: 64M of memory" in done.stderr
            assert 'resources.driver is "none"; no rlimit stands in' in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--memory", "1M"), "must be at least"),
        (("--memory", "0"), "must be at least"),
        (("--cpus", "0"), "must be a number of processors from 0.01 on"),
        (("--cpus", "-2"), "must be a number of processors from 0.01 on"),
        (("--cpuset-cpus", "3-1"), "ends before it begins"),
        (("--cpuset-cpus", "x"), "must be processors such as"),
        (("--memory", "64M", "--memory-swap", "32M"), "must not be less than"),
        (("--memory", "64M", "--memory-reservation", "65M"), "must not be more than"),
        (("--cpu-weight", "10001"), "--cpu-weight: must be 0 to 10000"),
    ],
)
def test_limits_that_are_impossible(
    sbx: Sbx, rootfs: Path, words: tuple[str, ...], said: str
) -> None:
    done = sbx("run", *words, rootfs, "true")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


SMALL = """extends = "default"
[filesystem]
size = "4M"
tmpfs = [{ target = "/small", size = "1M", inodes = 50 }]
"""


@pytest.mark.parametrize(
    ("script", "place"),
    [
        ("head -c 9000000 /dev/zero >/x", "/"),
        ("head -c 9000000 /dev/zero >/small/x; exit 3", "/small"),
        ("i=0; while [ $i -lt 60 ]; do >/small/$i; i=$((i+1)); done; exit 3", "/small"),
        ("head -c 900000 /dev/zero >/small/x; exit 3", ""),
        ("head -c 9000000 /dev/zero >/small/x; rm /small/x; exit 3", ""),
    ],
)
def test_a_full_file_system_in_memory(
    sbx: Sbx, rootfs: Path, tmp_path: Path, script: str, place: str
) -> None:
    """What the command's end leaves full is the reason, beside the command's own code."""
    (tmp_path / "small.toml").write_text(SMALL)
    words = ("--policy", tmp_path / "small.toml", "--report", tmp_path / "r")
    done = sbx("run", *words, rootfs, "sh", "-c", script)
    report = json.loads((tmp_path / "r").read_text())
    assert violations(report) == []
    assert report["reason"] == ("disk-full" if place else "exited")
    assert report["disk_full"] == place
    assert report["exit_code"] == report["code"] == done.returncode
    assert ("no room was left" in done.stderr) == bool(place)


def test_a_warning_begins_a_line_of_its_own(sbx: Sbx, rootfs: Path) -> None:
    """What the payload wrote last need not end with one."""
    line = "sbx: warning: 1 bytes of output were dropped above the limit"
    for text, shown in (("abc", "ab\n"), ("a\\nc", "a\n")):
        words = [
            sbx.path,
            "run",
            "--output-limit",
            "2",
            str(rootfs),
            "sh",
            "-c",
            f"printf '{text}'",
        ]
        both = subprocess.run(
            words, env=sbx.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
            check=False, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert both.stdout.startswith(f"{shown}{line}")
    done = sbx("run", "--output-limit", "2", rootfs, "sh", "-c", "printf abc")
    assert (done.stdout, done.stderr[: len(line)]) == ("ab", line)
    done = sbx("run", "--report", "-", rootfs, "sh", "-c", "printf x >&2; printf y")
    assert done.stdout == "y"
    assert done.stderr.startswith("x\nsbx: ")


def test_what_an_option_asks_for_is_no_warning(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    words = ("--network", "host", "--storage", "copy", "--policy", "default")
    done = sbx("run", "--report", tmp_path / "r", *words, rootfs, "true")
    assert "without the network" not in done.stderr
    assert "a copy" not in done.stderr
    report = json.loads((tmp_path / "r").read_text())
    assert "network" in [lost["layer"] for lost in report["degradations"]]
    assert report["storage_reason"] == "asked by --storage"
    (tmp_path / "p.toml").write_text(
        'extends = "default"\nnetwork.mode = "host"\nfilesystem.root = "copy"\n'
    )
    done = sbx("run", "--policy", tmp_path / "p.toml", rootfs, "true")
    assert "without the network namespace" in done.stderr
    assert "preparing a copy" in done.stderr

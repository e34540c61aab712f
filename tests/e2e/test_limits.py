"""Time, output and resources are bounded."""

import json
import subprocess
import time
from pathlib import Path

from tests.conftest import Sbx


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

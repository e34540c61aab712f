"""The report file, the report for people, and the status descriptor."""

import json
import os
from pathlib import Path

from tests.conftest import Sbx

FIELDS = {
    "schema",
    "reason",
    "code",
    "signal",
    "wall_s",
    "cpu_user_s",
    "cpu_system_s",
    "peak_rss_bytes",
    "layers",
    "degradations",
    "storage",
    "network",
    "policy",
    "exit_code",
}


def test_report_of_a_code(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    sbx("run", "--report", tmp_path / "r", rootfs, "sh", "-c", "exit 7")
    report = json.loads((tmp_path / "r").read_text())
    assert set(report) >= FIELDS
    assert (report["reason"], report["code"], report["signal"], report["exit_code"]) == (
        "exited",
        7,
        None,
        7,
    )
    assert 0 < report["wall_s"] < 60
    assert report["peak_rss_bytes"] > 100_000
    assert "seccomp" in report["layers"]


def test_report_of_a_signal(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    sbx("run", "--report", tmp_path / "r", rootfs, "sh", "-c", "kill -9 $$")
    report = json.loads((tmp_path / "r").read_text())
    assert (report["reason"], report["code"], report["signal"], report["exit_code"]) == (
        "signalled",
        None,
        9,
        137,
    )


def test_cpu_time_is_counted(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    sbx(
        "run",
        "--report",
        tmp_path / "r",
        rootfs,
        "sh",
        "-c",
        "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done",
    )
    report = json.loads((tmp_path / "r").read_text())
    assert report["cpu_user_s"] > 0.02


def test_report_for_people(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "--report", "-", rootfs, "true")
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert 3 <= len(lines) <= 6
    assert "layers" in done.stderr


def test_the_report_may_not_be_a_file_of_someone_else(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "--report", "/proc/version", rootfs, "true")
    assert done.returncode != 0
    assert "/proc/version" in done.stderr


def test_status_descriptor(sbx: Sbx, rootfs: Path) -> None:
    reader, writer = os.pipe()
    try:
        done = sbx("run", "--status-fd", writer, rootfs, "sh", "-c", "exit 3", pass_fds=(writer,))
        os.close(writer)
        writer = -1
        events = [json.loads(line) for line in os.read(reader, 1 << 16).splitlines()]
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    assert done.returncode == 3
    assert len(events) >= 2
    assert [event for event in events if "exited" in str(event)], events


def test_copy_is_chosen_aloud(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    done = sbx("run", "--storage", "copy", "--report", tmp_path / "r", rootfs, "true")
    report = json.loads((tmp_path / "r").read_text())
    assert report["storage"] == "copy"
    assert "copy" in done.stderr

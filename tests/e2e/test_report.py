"""The report file, the report for people, and the status descriptor."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support.schema import violations
from tests.support.user import children

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
    "notes",
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


def test_places_that_are_no_files(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", "--report", "/dev/stdout", rootfs, "sh", "-c", "echo first")
    first, _, report = done.stdout.partition("\n")
    assert (first, json.loads(report)["reason"]) == ("first", "exited")
    done = sbx("run", "--report", "/dev/null", rootfs, "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("/dev/null").is_char_device()
    reader, writer = os.pipe()
    sbx("run", "--report", f"/dev/fd/{writer}", rootfs, "true", pass_fds=(writer,))
    os.close(writer)
    with os.fdopen(reader) as file:
        assert json.load(file)["exit_code"] == 0


def test_a_report_of_a_command_that_does_not_exist(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    assert sbx("run", "--report", tmp_path / "r", tmp_path / "no", "true").returncode == 125
    assert json.loads((tmp_path / "r").read_text())["reason"] == "setup-failed"
    assert sbx("run", "--report", tmp_path / "r", rootfs, "no-such").returncode == 127
    assert json.loads((tmp_path / "r").read_text())["exit_code"] == 127


def test_output_for_a_full_disk_is_no_success(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    def run(script: str) -> tuple[int, str]:
        words = ["run", "--report", str(tmp_path / "r"), str(rootfs), "sh", "-c", script]
        with open("/dev/full", "wb", buffering=0) as full:
            running = sbx.start(*words, stdout=full)
            said = running.communicate(timeout=30)[1]
        return running.returncode, said.decode()

    code, said = run("echo lost")
    report = json.loads((tmp_path / "r").read_text())
    assert (code, report["reason"], report["code"]) == (125, "output-lost", 0)
    assert (report["output_bytes"], report["output_dropped_bytes"]) == (0, 5)
    assert "no space left on device" in said
    assert run("echo lost; exit 3")[0] == 3


def test_a_full_standard_error_stops_nothing(sbx: Sbx, rootfs: Path) -> None:
    """What sbx has to say is lost; the run and its exit code are not."""
    with open("/dev/full", "wb", buffering=0) as full:
        running = sbx.start("run", "--storage", "copy", rootfs, "sh", "-c", "exit 5", stderr=full)
        running.communicate(timeout=30)
    assert running.returncode == 5


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


def test_a_sandbox_has_one_name_also_when_it_fails(sbx: Sbx, rootfs: Path) -> None:
    reader, writer = os.pipe()
    try:
        sbx("run", "--status-fd", writer, rootfs, "nonesuch", pass_fds=(writer,))
        events = [json.loads(line) for line in os.read(reader, 1 << 16).splitlines()]
    finally:
        os.close(reader)
        os.close(writer)
    assert [event["event"] for event in events] == ["started", "exited"]
    assert events[0]["name"] == events[1]["report"]["name"]


def test_copy_is_chosen_aloud(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    policy = tmp_path / "copy.toml"
    policy.write_text('extends = "default"\n[filesystem]\nroot = "copy"\n')
    done = sbx("run", "--policy", policy, "--report", tmp_path / "r", rootfs, "true")
    report = json.loads((tmp_path / "r").read_text())
    assert report["storage"] == "copy"
    assert "preparing a copy" in done.stderr
    asked = sbx("run", "--storage", "copy", rootfs, "true")
    assert "preparing" not in asked.stderr


@pytest.mark.parametrize(
    ("words", "reason", "phase"),
    [
        (("sh", "-c", "exit 3"), "exited", None),
        (("sh", "-c", "kill -TERM $$"), "signalled", None),
        (("--timeout", "0.3s", "sleep", "60"), "timeout", None),
        (("--output-limit", "10", "seq", "1000"), "output-limit", None),
        (("no-such-command",), "setup-failed", "exec"),
        (("--workdir", "/nowhere", "true"), "setup-failed", "prepare"),
        (("-v", "/nowhere:/x", "true"), "setup-failed", "prepare"),
    ],
)
def test_reports_are_as_the_schema_says(
    sbx: Sbx, rootfs: Path, tmp_path: Path, words: tuple[str, ...], reason: str, phase: str | None
) -> None:
    options = words[:2] if words[0].startswith("-") else ()
    sbx("run", "--report", tmp_path / "r", *options, rootfs, *words[len(options) :])
    report = json.loads((tmp_path / "r").read_text())
    assert violations(report) == []
    assert (report["reason"], report["phase"]) == (reason, phase)


def test_a_forbidden_call_is_a_reason(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    words = ("--security-opt", f"seccomp={tmp_path}/profile.json", "--report", tmp_path / "r")
    done = sbx("run", *words, rootfs, "mkdir", "/tmp/x")
    report = json.loads((tmp_path / "r").read_text())
    assert violations(report) == []
    assert (report["reason"], report["signal_name"]) == ("policy-killed", "SIGSYS")
    assert done.returncode == 128 + signal.SIGSYS
    assert "a system call that its policy forbids" in done.stderr


def test_a_launcher_that_was_killed_is_a_reason(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    words = ("--report", tmp_path / "r", rootfs, "sh", "-c", "echo ready; sleep 100")
    running = sbx.start("run", *words)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    (launcher,) = children(running.pid)
    os.kill(launcher, signal.SIGKILL)
    _, said = running.communicate(timeout=60)
    report = json.loads((tmp_path / "r").read_text())
    assert violations(report) == []
    assert (report["reason"], report["exit_code"]) == ("launcher-killed", running.returncode)
    assert b"the launcher was killed" in said


def test_a_set_up_that_fails_says_where(sbx: Sbx, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "proc").symlink_to("tmp")
    done = sbx("run", "--report", tmp_path / "r", root, "true")
    report = json.loads((tmp_path / "r").read_text())
    assert violations(report) == []
    assert (report["reason"], report["phase"], done.returncode) == ("setup-failed", "setup", 125)
    assert {row["sure"] for row in report["figures"].values()} == {"exact", "unknown"}

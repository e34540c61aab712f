"""The exit codes of `sbx run`: the command's own, 128+n, and ours."""

import json
import signal
from pathlib import Path

import pytest

from tests.conftest import Sbx


@pytest.mark.parametrize(
    "code", [0, 1, 2, 3, 42, 77, 100, 123, 124, 125, 126, 127, 128, 137, 200, 254, 255]
)
def test_own_code_is_passed_on(sbx: Sbx, rootfs: Path, code: int) -> None:
    done = sbx("run", rootfs, "sh", "-c", f"exit {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize(
    "name", ["HUP", "INT", "QUIT", "ABRT", "KILL", "USR1", "SEGV", "PIPE", "ALRM", "TERM"]
)
def test_death_by_a_signal_is_128_and_its_number(sbx: Sbx, rootfs: Path, name: str) -> None:
    done = sbx("run", rootfs, "sh", "-c", f"kill -{name} $$")
    assert done.returncode == 128 + signal.Signals[f"SIG{name}"], done.stderr


def test_every_policy_runs(sbx: Sbx, rootfs: Path) -> None:
    for policy in ("strict", "default", "ci", "permissive"):
        done = sbx("run", "--policy", policy, rootfs, "sh", "-c", "echo $((6*7)); exit 3")
        assert (done.returncode, done.stdout) == (3, "42\n"), (policy, done.stderr)


def test_command_not_found_is_127(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", rootfs, "no-such-program")
    assert done.returncode == 127
    assert "no-such-program" in done.stderr


def test_not_executable_is_126(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("run", rootfs, "/etc/passwd")
    assert done.returncode == 126
    assert "/etc/passwd" in done.stderr


def test_a_folder_as_command_is_126(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", rootfs, "/etc").returncode == 126


def test_missing_interpreter_is_named(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/opt/nowhere/interp\n")
    script.chmod(0o755)
    done = sbx("run", "-v", f"{script}:/script", rootfs, "/script")
    assert done.returncode == 126
    assert "/opt/nowhere/interp" in done.stderr


def test_timeout_is_124(sbx: Sbx, rootfs: Path) -> None:
    assert sbx("run", "--timeout", "0.3", rootfs, "sleep", "60").returncode == 124


def test_setup_failure_is_125(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    assert sbx("run", "-v", f"{tmp_path}/missing:/x", rootfs, "true").returncode == 125


def test_bad_usage_is_2(sbx: Sbx, rootfs: Path) -> None:
    for words in (
        ("--no-such-option", rootfs, "true"),
        (rootfs,),
        (),
        ("--timeout", "soon", rootfs, "true"),
    ):
        done = sbx("run", *words)
        assert done.returncode == 2, (words, done.stderr)
        assert "sbx: error:" in done.stderr


def test_a_report_tells_their_125_from_ours(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    assert sbx("run", "--report", theirs, rootfs, "sh", "-c", "exit 125").returncode == 125
    assert sbx("run", "--report", ours, "-v", f"{tmp_path}/no:/x", rootfs, "true").returncode == 125
    assert json.loads(theirs.read_text())["reason"] == "exited"
    assert json.loads(ours.read_text())["reason"] == "setup-failed"

"""The exit codes of `sbx run`: the command's own, 128+n, and ours."""

import json
import os
import signal
from pathlib import Path

import pytest

import sandbox
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


# By default these stop a process or do nothing to it (signal(7)).
HARMLESS = {17, 18, 19, 20, 21, 22, 23, 28}
KILL = """
import ctypes, os, sys
number = int(sys.argv[1])
default = (ctypes.c_ulong * 4)()
ctypes.CDLL(None).syscall(13, number, default, None, 8)  # rt_sigaction: C libraries keep 32 and 33
os.kill(os.getpid(), number)
"""


def test_every_code_is_exact_in_python(rootfs: Path) -> None:
    for code in range(256):
        result = sandbox.run(["sh", "-c", f"exit {code}"], rootfs=rootfs)
        found = (result.returncode, result.report.reason, result.report.code, result.report.signal)
        assert found == (code, "exited", code, None)


def test_every_signal_is_exact_in_python(debian: Path) -> None:
    for number in sorted(set(range(1, 65)) - HARMLESS):
        words = ["/usr/bin/python3", "-c", KILL, str(number)]
        result = sandbox.run(words, rootfs=debian, policy="default")
        found = (result.returncode, result.report.code, result.report.signal)
        assert found == (-number, None, number)
        assert result.report.reason == ("policy-killed" if number == 31 else "signalled")


def ending(sbx: Sbx, tmp_path: Path, *words: object) -> tuple[int, str, str, object]:
    """(exit code, the reason in the report, the same by the status descriptor, the own code)."""
    reader, writer = os.pipe()
    report = tmp_path / "report"
    report.unlink(missing_ok=True)
    options = ("--report", report, "--status-fd", writer)
    done = sbx("run", *options, *words, pass_fds=(writer,))
    os.close(writer)
    with os.fdopen(reader) as lines:
        events = [json.loads(line) for line in lines]
    found = json.loads(report.read_text())
    assert events[-1] == {"event": "exited", "report": found}
    assert ("running" in [e["event"] for e in events]) == (found["reason"] != "setup-failed")
    return done.returncode, found["reason"], events[-1]["report"]["reason"], found["code"]


@pytest.mark.parametrize("code", [124, 125, 126, 127])
def test_their_codes_are_told_from_ours(sbx: Sbx, rootfs: Path, tmp_path: Path, code: int) -> None:
    theirs = (rootfs, "sh", "-c", f"exit {code}")
    assert ending(sbx, tmp_path, *theirs) == (code, "exited", "exited", code)
    ours: dict[int, tuple[object, ...]] = {
        124: ("--timeout", "0.3", rootfs, "sleep", "60"),
        125: ("-v", f"{tmp_path}/no:/x", rootfs, "true"),
        126: (rootfs, "/etc/passwd"),
        127: (rootfs, "no-such-program"),
    }
    reason = "timeout" if code == 124 else "setup-failed"
    assert ending(sbx, tmp_path, *ours[code]) == (code, reason, reason, None)

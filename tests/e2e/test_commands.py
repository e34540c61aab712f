"""The other commands: plans, policies, doctor, version, help."""

import json
from pathlib import Path

import pytest

from tests.conftest import Sbx


def test_version(sbx: Sbx) -> None:
    done = sbx("version")
    assert done.returncode == 0
    assert "0.1" in done.stdout


@pytest.mark.parametrize(
    "words", [(), ("--help",), ("run", "--help"), ("policy", "--help"), ("rootfs", "--help")]
)
def test_help(sbx: Sbx, words: tuple[str, ...]) -> None:
    done = sbx(*words)
    assert "Usage" in done.stdout + done.stderr


def test_policy_list_show_check(sbx: Sbx, tmp_path: Path) -> None:
    listed = sbx("policy", "list")
    assert listed.returncode == 0, listed.stderr
    for name in ("strict", "default", "ci", "permissive"):
        assert name in listed.stdout
        shown = sbx("policy", "show", name)
        assert shown.returncode == 0, shown.stderr
        assert "seccomp" in shown.stdout
    (tmp_path / "wider.toml").write_text('extends = "strict"\n[network]\nmode = "host"\n')
    checked = sbx("policy", "check", tmp_path / "wider.toml")
    assert "network.mode" in checked.stdout + checked.stderr


def test_explain_shows_each_line_with_its_origin(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    done = sbx("explain", "--policy", "strict", "-v", f"{tmp_path}:/data:ro", rootfs, "true")
    assert done.returncode == 0, done.stderr
    assert "/data" in done.stdout
    assert "strict" in done.stdout
    assert "--volume" in done.stdout
    assert len(done.stdout.splitlines()) > 20


def test_dry_run_starts_nothing(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    done = sbx("run", "--dry-run", "-v", f"{tmp_path}:/data", rootfs, "touch", "/data/x")
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not (tmp_path / "x").exists()


def test_explain_as_json(sbx: Sbx, rootfs: Path) -> None:
    done = sbx("explain", "--json", rootfs, "true")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


def test_doctor(sbx: Sbx) -> None:
    done = sbx("doctor")
    assert done.returncode in {0, 1}, done.stderr
    for word in ("user namespace", "overlay", "seccomp", "Landlock"):
        assert word.lower() in done.stdout.lower(), done.stdout
    found = sbx("doctor", "--json")
    json.loads(found.stdout)


def test_python_interface(rootfs: Path) -> None:
    import sandbox

    assert "run" in getattr(sandbox, "__all__", ())
    done = sandbox.run(
        ["sh", "-c", "echo hi; exit 3"],
        rootfs=str(rootfs),
        policy="strict",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (3, "hi\n")

"""The commands beside run and explain: what they show, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox.cli.main import main
from sandbox.errors import RootfsError
from sandbox.host import doctor
from sandbox.host.finding import Finding
from sandbox.services.storage import from_host

FINDINGS = (
    Finding("a", "ok", "fine"),
    Finding("b", "warn", "less \x1b", "sudo one\nsudo two"),
)


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_policy_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "list"]) == 0
    shown = capsys.readouterr().out
    assert "\nstrict  " in shown
    assert main(["policy", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"strict", "default", "ci", "permissive"} <= {entry["name"] for entry in found}
    assert all(entry["path"].endswith(".toml") for entry in found)


def test_policy_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "strict"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith("/strict.toml")
    assert any(line.startswith('network.mode = "none"') for line in shown)
    assert sum(" # " in line for line in shown[1:]) > 50
    assert main(["policy", "show", "--json", "ci"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "ci"
    assert found["files"][0]["origin"] == "ci.toml"
    assert {"key", "value", "origin"} == set(found["values"][0])


def test_policy_check(capsys: pytest.CaptureFixture[str]) -> None:
    Path("same.toml").write_text('extends = "strict"\n')
    Path("wide.toml").write_text('extends = "strict"\n[network]\nmode = "host"\n')
    Path("bad.toml").write_text("[nowhere]\n[process]\ntimeout = 'soon'\n")
    assert main(["policy", "check", "./same.toml"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "same.toml: valid, allows nothing more than what it extends\n"
    assert captured.err == ""
    assert main(["policy", "check", "./wide.toml", "./bad.toml"]) == 125
    captured = capsys.readouterr()
    assert "wide.toml: valid, allows more than what it extends in" in captured.out
    assert "sbx: warning: wide.toml: network.mode: " in captured.err
    assert "sbx: error: ./bad.toml has 2 problems" in captured.err
    assert main(["policy", "check", "--json", "./wide.toml", "./bad.toml"]) == 125
    wide, bad = json.loads(capsys.readouterr().out)
    assert wide["error"] is None
    assert wide["widenings"]
    assert len(bad["error"]["problems"]) == 2


def test_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", tuple((f.name, lambda f=f: f) for f in FINDINGS))
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "less \\x1b" in shown
    assert "sudo two" in shown
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "warn"
    assert [entry["verdict"] for entry in found["findings"]] == ["ok", "warn"]
    failed = Finding("c", "fail", "broken")
    monkeypatch.setattr(doctor, "CHECKS", (("c", lambda: failed),))
    assert main(["doctor"]) == 1
    assert main(["doctor", "--json"]) == 1


def test_rootfs_from_host(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def build(out: str, programs: tuple[str, ...], **more: object) -> from_host.Result:
        seen.append((out, programs, more))
        if out == "bad":
            raise RootfsError("cannot build bad", problems=("one", "two"))
        return from_host.Result(out, 2, 3, 10, 4, 1, 5 << 20, ("left out: x",))

    monkeypatch.setattr(from_host, "build", build)
    assert main(["rootfs", "from-host", "--include=/a:/b", "--include=/c", "out", "sh", "ls"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "out: 2 programs, 3 libraries, 10 files, 5.0 MiB\n"
    assert captured.err == "sbx: warning: left out: x\n"
    assert seen == [("out", ("sh", "ls"), {"includes": [("/a", "/b"), ("/c", "")], "force": False})]
    assert main(["rootfs", "from-host", "--json", "out"]) == 0
    assert json.loads(capsys.readouterr().out)["libraries"] == 3
    assert main(["rootfs", "from-host", "bad", "sh"]) == 125
    assert "  one\n  two\n" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["version"], ["--version"]):
        assert main(words) == 0
        assert capsys.readouterr().out.startswith("sbx ")
    assert main(["version", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"sbx", "python", "kernel", "machine"}


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    from sandbox.cli.options import GROUPS, RUN_OPTIONS

    for command in ("run", "explain"):
        assert main([command, "--help"]) == 0
        shown = capsys.readouterr().out
        for option in RUN_OPTIONS:
            assert all(name in shown for name in option.names)
        assert all(f"\n{group}:\n" in shown for group in GROUPS)


@pytest.mark.parametrize("group", ["policy", "rootfs"])
def test_group_without_a_command_shows_its_help(
    capsys: pytest.CaptureFixture[str], group: str
) -> None:
    assert main([group]) == 0
    assert f"Usage: sbx {group} " in capsys.readouterr().out

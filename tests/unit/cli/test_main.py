"""The entry point: dispatch, exit codes, one printed error, nothing that escapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.cli import main as entry
from sandbox.cli.commands import explain, run
from sandbox.cli.main import main
from sandbox.errors import CommandNotFound, SbxError
from sandbox.plan import ops
from sandbox.plan.request import Degradation, Plan, Step
from sandbox.policy.model import Policy
from sandbox.runtime.decision import Prepared
from sandbox.runtime.report import Report
from sandbox.runtime.session import RunOptions
from sandbox.runtime.task import Task

ROOT = Path(sandbox.__file__).parents[1]
REPORT = Report(
    name="box", reason="exited", exit_code=7, code=7, signal=None, wall_s=0.1, cpu_user_s=0.0,
    cpu_system_s=0.0, peak_rss_bytes=0, output_bytes=0, output_dropped_bytes=0, layers=(),
    degradations=(), storage="overlay", storage_reason="", network="none", policy="default",
    identity="range", pid=1,
)  # fmt: skip


class Session:
    """Stands for a run: keeps what it was given, tells and returns what it was told to."""

    def __init__(self) -> None:
        self.report = REPORT
        self.told: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.calls: list[tuple[Policy, Task, RunOptions]] = []

    def __call__(self, policy: Policy, task: Task, options: RunOptions) -> Report:
        self.calls.append((policy, task, options))
        for what, cause in self.told:
            if options.notify:
                options.notify(what, cause)
        if self.error:
            raise self.error
        return self.report


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    found = Session()
    monkeypatch.setattr(run, "run_session", found)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root").mkdir()
    return found


def test_run_hands_everything_to_the_session(session: Session) -> None:
    words = ["run", "-iq", "--policy=strict", "--report=out.json", "--status-fd=2", "--name=box"]
    assert main([*words, "-w/tmp", "root", "cmd", "--json", "-x"]) == 7
    ((policy, task, options),) = session.calls
    assert policy.name == "strict"
    assert policy.process.cwd == "/tmp"
    assert policy.origin("process.cwd") == "--workdir"
    assert task == Task("root", ("cmd", "--json", "-x"), "box")
    assert (options.stdin, options.report_path, options.status_fd) == (0, "out.json", 2)
    assert options.notify is None


def test_policy_without_a_name_is_default(session: Session) -> None:
    assert main(["run", "root", "cmd"]) == 7
    policy, _task, options = session.calls[0]
    assert policy.name == "default"
    assert options.stdin is None


def test_warnings(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.told = [("without\x1b a layer", "a cause")]
    main(["run", "root", "cmd"])
    assert capsys.readouterr().err == "sbx: warning: without\\x1b a layer: a cause\n"
    main(["run", "--json", "root", "cmd"])
    assert json.loads(capsys.readouterr().err) == {
        "warning": "without\x1b a layer", "cause": "a cause",
    }  # fmt: skip
    main(["run", "-q", "root", "cmd"])
    assert capsys.readouterr().err == ""


def test_errors_of_a_session(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.error = CommandNotFound("cannot run x", cause="no such program")
    assert main(["run", "root", "x"]) == 127
    assert capsys.readouterr().err == "sbx: error: cannot run x\n  cause: no such program\n"
    assert main(["run", "--json", "root", "x"]) == 127
    assert json.loads(capsys.readouterr().err)["error"] == "CommandNotFound"


def test_unforeseen_error(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.error = TypeError("odd\nthing")
    assert main(["run", "root", "x"]) == 125
    shown = capsys.readouterr().err
    assert shown.startswith("sbx: error: internal error: TypeError: odd\\nthing\n  hint: run the")
    assert "Traceback" not in shown
    assert main(["run", "--debug", "root", "x"]) == 125
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "sbx: debug: failed after" in shown


def test_interrupt_is_quiet(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    monkey = pytest.MonkeyPatch()
    monkey.setattr(entry, "_dispatch", _interrupt)
    assert main(["run", "root", "x"]) == 130
    monkey.undo()
    assert capsys.readouterr() == ("", "")
    assert session.calls == []


def _interrupt(_words: list[str]) -> int:
    raise KeyboardInterrupt


def test_all_problems_at_once(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-vdata:/x", "-v/a:b", "--timeout=soon", "--cap-add=NOPE", "--ulimit=foo=1"]
    assert main(["run", *words, "none", "cmd"]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "sbx: error: the command line has 6 problems"
    assert sorted(line.split(":")[0].strip() for line in shown[1:]) == [
        "--cap-add", "--timeout", "--ulimit", "--volume", "--volume", "hint", "rootfs",
    ]  # fmt: skip
    assert session.calls == []


def test_all_problems_at_once_of_a_line_with_an_unknown_policy(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "run --policy nope --timeout x -v a -w b --cap-add z ./nope ls"
    assert main(line.split()) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "sbx: error: the command line has 6 problems"
    assert [line.split(":")[0].strip() for line in shown[1:]] == [
        "--volume", "--policy", "--workdir", "--timeout", "--cap-add", "rootfs", "hint",
    ]  # fmt: skip
    assert main(["run", "--policy=nope", "./nope", "ls"]) == 2
    assert "  rootfs: " in capsys.readouterr().err
    assert session.calls == []


def test_a_root_that_is_no_text_is_shown_by_its_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", os.fsdecode(b"./\xff"), "cmd"]) == 125
    assert 'cannot use "./\\xff" as the root' in capsys.readouterr().err


def test_a_policy_at_fault_is_not_wrong_usage(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.toml").write_text("[network]\nmode = 'nat'\n")
    assert main(["run", "--policy=./bad.toml", "root", "cmd"]) == 125
    assert 'network.mode: "nat"' in capsys.readouterr().err
    assert main(["run", "--policy=nowhere", "root", "cmd"]) == 125
    assert main(["run", "--policy=nowhere", "--env==", "root", "cmd"]) == 2
    shown = capsys.readouterr().err
    assert '  --policy: no policy "nowhere": there are: ' in shown
    assert "  --env: " in shown
    assert session.calls == []


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["run"], 'missing argument "ROOTFS"'),
        (["run", "root"], 'missing argument "COMMAND"'),
        (["run", "root", "--"], 'missing argument "COMMAND"'),
        (["run", "--nmae=x", "root", "cmd"], 'no such option "--nmae"'),
        (["run", "-Z", "root", "cmd"], 'no such option "-Z"'),
        (["run", "--env"], 'option "--env" requires an argument'),
        (["run", "root", "--read-only", "cmd"], 'the command "--read-only" looks like an option'),
        (["explain", "--json=1", "root", "cmd"], 'option "--json" does not take a value'),
        (["rnu"], 'no such command "rnu"'),
        (["--nope"], 'no such option "--nope"'),
        (["layer", "rm"], 'missing argument "DIR"'),
        (["exec"], 'missing argument "SANDBOX"'),
        (["policy", "shwo"], 'no such command "shwo"'),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: list[str], first: str) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == f"sbx: error: {first}"
    assert lines[-1].startswith("  hint: ")


def test_near_names_are_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--nmae=x", "root", "cmd"])
    main(["rnu"])
    main(["run", "--bogus", "root", "cmd"])  # nothing but the dashes is like --uts
    shown = capsys.readouterr().err
    assert "hint: try 'sbx run --help'" in shown
    assert "hint: did you mean --name? try 'sbx run --help'" in shown
    assert "hint: did you mean run? try 'sbx --help'" in shown


def test_options_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--policy", "strict", "run", "root", "cmd"])
    main(["--json", "run", "root", "cmd"])
    first, second = capsys.readouterr().err.splitlines()[1:]
    assert first == "  hint: write it after the command: sbx run --policy"
    assert json.loads(second)["hint"] == "write it after the command: sbx run --json"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    for command in ("run", "explain", "policy", "doctor", "rootfs", "version", "completion"):
        assert f"\n  {command} " in shown


def test_plan_is_shown_and_nothing_started(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(
        steps=(Step(ops.Namespaces(0x10000000), "strict"),),
        degradations=(Degradation("time", "own clocks", "a cause"),),
        layers=("user namespace",),
        identity="range",
        storage="copy",
    )
    monkeypatch.setattr(explain, "prepare", lambda _policy, _task: Prepared(plan, "asked for"))
    for words in (["explain"], ["run", "--dry-run"]):
        assert main([*words, "root", "cmd"]) == 0
        shown = capsys.readouterr().out
        assert "[strict]" in shown
        assert "storage: copy: asked for" in shown
        assert main([*words, "--json", "root", "cmd"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["storage_reason"] == "asked for"
        assert found["steps"][0]["origin"] == "strict"
    assert session.calls == []


def sbx(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "sandbox", *words],
        env=environment, text=True, stderr=subprocess.PIPE, check=False, timeout=60, **more,
    )  # fmt: skip


def test_reader_that_goes_away() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = sbx("policy", "list", stdout=write_end)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


def test_error_that_nobody_reads() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "nope"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=write_end, check=False, timeout=60,
    )  # fmt: skip
    os.close(write_end)
    assert done.returncode == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell]) == 0
    assert "_SBX_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("sbx ru", "plain,run"),
        ("sbx run --stor", "plain,--storage"),
        ("sbx run --storage co", "plain,copy"),
        ("sbx run --policy st", "plain,strict"),
        ("sbx run --cap-add NET_A", "plain,NET_ADMIN"),
        ("sbx run --cap-drop A", "plain,ALL"),
        ("sbx run --ulimit nof", "plain,nofile="),
        ("sbx run --security-opt se", "plain,seccomp="),
        ("sbx run --security-opt seccomp = un", "plain,unconfined"),
        ("sbx run --security-opt = seccomp = un", "plain,unconfined"),
        ("sbx run --volume x", "dir,x"),
        ("sbx run --policy = st", "plain,strict"),
        ("sbx run --policy =", "plain,strict"),
        ("sbx run -it --policy 'st", "plain,strict"),
        ("sbx run ro", "dir,ro"),
        ("sbx run root l", "file,l"),
        ("sbx run root ls -", "file,-"),
        ("sbx run -v ./a : /b:ro root l", "file,l"),
        ("sbx policy li", "plain,list"),
        ("sbx policy show st", "plain,strict"),
        ("sbx policy check strict ./m", "file,./m"),
        ("sbx help ru", "plain,run"),
        ("sbx help policy sh", "plain,show"),
    ],
)
def test_completion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, wanted: str
) -> None:
    monkeypatch.setenv("_SBX_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line.replace(" ", "\n"))
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    assert main([]) == 0
    assert wanted in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("line", ["sbx run root ls -", "sbx nope x", "sbx run --nope x"])
def test_nothing_to_complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    monkeypatch.setenv("_SBX_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line.replace(" ", "\n"))
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    main([])
    captured = capsys.readouterr()
    assert "plain," not in captured.out
    assert captured.err == ""


def test_error_with_odd_bytes_in_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([b"\xff\x1b[2J".decode("utf-8", "surrogateescape")]) == 2
    assert capsys.readouterr().err.splitlines()[0] == (
        'sbx: error: no such command "\\xff\\x1b[2J"'
    )


def test_sbx_error_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_words: list[str]) -> int:
        raise SbxError("x")

    monkeypatch.setattr(entry, "_dispatch", fail)
    assert main(["run"]) == 125


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (["help"], "sbx [OPTIONS] [COMMAND]"),
        (["help", "run"], "sbx run [OPTIONS] ROOTFS COMMAND [ARG]..."),
        (["run", "-h"], "sbx run [OPTIONS] ROOTFS COMMAND [ARG]..."),
        (["explain", "-h"], "sbx explain [OPTIONS] ROOTFS COMMAND [ARG]..."),
        (["help", "policy", "show"], "sbx policy show [OPTIONS] POLICY"),
        (["policy", "show", "-h"], "sbx policy show [OPTIONS] POLICY"),
    ],
)
def test_pleas_for_help(capsys: pytest.CaptureFixture[str], words: list[str], usage: str) -> None:
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"Usage: {usage}")
    assert captured.err == ""


@pytest.mark.parametrize("words", [["run"], ["run", "root"], ["explain"], ["policy", "show"]])
def test_what_is_missing_shows_the_usage(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 2
    assert f"hint: usage: sbx {' '.join(words[:1])}" in capsys.readouterr().err


def test_no_help_is_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["policy"], ["rootfs"]):
        assert main(words) == 0
        assert "..." not in capsys.readouterr().out.partition("Commands:")[2]

"""One run around a launcher that only acts: validation, report, what is left behind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SbxError, SetupError, UsageError
from sandbox.host.facts import HostFacts
from sandbox.launcher import events, fake
from sandbox.linux.workspace import runs_dir
from sandbox.plan.compile import compile_plan
from sandbox.plan.request import Plan, Request
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import Policy
from sandbox.runtime import decision, prepared, session
from sandbox.runtime.decision import prepare
from sandbox.runtime.report import Report
from sandbox.runtime.session import RunOptions, run_session
from sandbox.runtime.task import Task
from sandbox.services.storage import DRIVERS

Steps = list[Any]


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostFacts:
    """A host that can do everything, and folders of its own."""
    values: dict[str, Any] = {
        "uid": os.getuid() or 1000,
        "gid": os.getgid() or 1000,
        "groups": (),
        "user_name": "tester",
        "arch": "x86_64",
        "kernel": (6, 1),
        "subuids": ((100000, 65536),),
        "subgids": ((100000, 65536),),
        "newuidmap": "/usr/bin/newuidmap",
        "newgidmap": "/usr/bin/newgidmap",
        "userns_error": "",
        "overlay_error": "",
        "proc_error": "",
        "landlock_abi": 6,
        "seccomp": True,
        "time_namespace": True,
    }
    facts = HostFacts(**{name: values.get(name, "") for name in HostFacts._fields})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (session, decision):
        monkeypatch.setattr(module, "host_facts", lambda: facts)
    return facts


@pytest.fixture
def rootfs(tmp_path: Path) -> str:
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    return str(root)


def policy(**process: Any) -> Policy:
    return build_policy([*load_policy("default"), Layer("test", {"process": process}, {})])


def run(steps: Steps, rootfs: str, *, wanted: Policy | None = None, **options: Any) -> Report:
    options.setdefault("stdout", None)
    return run_session(
        wanted or policy(),
        Task(rootfs, ("true",), env=()),
        RunOptions(program=fake.program(steps), forward_signals=False, **options),
    )


def test_a_run_gives_output_and_a_report(rootfs: str) -> None:
    out = bytearray()
    report = run(fake.success("hello", code=7), rootfs, stdout=out)
    assert out == b"hello"
    assert (report.reason, report.exit_code, report.code) == ("exited", 7, 7)
    assert report.cpu_user_s == 0.003
    assert report.peak_rss_bytes == 1 << 20
    assert report.output_bytes == 5
    assert report.policy == "default"
    assert report.storage == "overlay"
    assert "seccomp" in report.layers
    assert report.pid > 0


def test_signals_and_limits_have_their_exit_codes(rootfs: str) -> None:
    start: Steps = [["started"], ["running"]]
    assert run([*start, ["exited", 15], ["done", 0]], rootfs).exit_code == 143
    assert run([*start, ["die", 9]], rootfs).exit_code == 137
    hang: Steps = [*start, ["ignore", 60]]
    report = run(hang, rootfs, wanted=policy(timeout="100ms", grace="50ms"))
    assert (report.reason, report.exit_code) == ("timeout", 124)


def test_a_failure_is_raised_and_reported(rootfs: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    steps: Steps = [["error", events.STAGE_SETUP, 3, errno.EPERM, "x"], ["exit", 125]]
    with pytest.raises(SetupError, match=r"step 4 of \d+ failed"):
        run(steps, rootfs, report_path=str(path))
    found = json.loads(path.read_text())
    assert (found["reason"], found["exit_code"]) == ("setup-failed", 125)
    assert found["error"]["error"] == "SetupError"


def test_status_lines_in_order(rootfs: str) -> None:
    reading, writing = os.pipe()
    run(fake.success(), rootfs, status_fd=writing)
    os.close(writing)
    with os.fdopen(reading) as file:
        lines = [json.loads(line) for line in file]
    assert [line["event"] for line in lines] == ["started", "running", "exited"]
    assert lines[2]["report"]["reason"] == "exited"


def test_the_report_for_people_goes_to_stderr(
    rootfs: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run(fake.success(), rootfs, report_path="-")
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "sbx: result  exited: exit code 0"
    assert 3 <= len(said) <= 6


def test_warnings_are_told(rootfs: str) -> None:
    told: list[tuple[str, str]] = []
    steps: Steps = [["warning", 0, errno.EPERM, "x"], *fake.success()]
    run(steps, rootfs, notify=lambda what, cause: told.append((what, cause)))
    assert any(what.startswith("step 1: ") for what, _ in told)


@pytest.mark.parametrize(("code", "exit_code"), [(0, 125), (7, 7)])
def test_output_that_cannot_be_written_is_no_success(
    rootfs: str, code: int, exit_code: int
) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        report = run(fake.success("x" * 1000, code=code), rootfs, stdout=full.fileno())
    assert (report.reason, report.code, report.exit_code) == ("output-lost", code, exit_code)
    assert report.output_error == "no space left on device"
    assert (report.output_bytes, report.output_dropped_bytes) == (0, 1000)


def test_a_copy_is_made_used_and_removed(
    rootfs: str, host: HostFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = host.replace(overlay_error="operation not permitted")
    for module in (session, decision):
        monkeypatch.setattr(module, "host_facts", lambda: facts)
    made: list[str] = []

    def copy(source: str, target: str, *_: object) -> tuple[()]:
        assert source == rootfs
        os.mkdir(target)
        made.append(target)
        return ()

    monkeypatch.setitem(DRIVERS, "copy", copy)
    told: list[tuple[str, str]] = []
    report = run(fake.success(), rootfs, notify=lambda *words: told.append(words))
    assert report.storage == "copy"
    assert "operation not permitted" in report.storage_reason
    assert "operation not permitted" in told[0][1]
    assert len(made) == 1
    assert [name for name in os.listdir(runs_dir()) if not name.startswith(".")] == []


def test_changes_on_disk_have_a_folder_that_is_removed(
    rootfs: str, host: HostFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = host.replace(upper_memory_error="input/output error")
    for module in (session, decision):
        monkeypatch.setattr(module, "host_facts", lambda: facts)
    uppers: list[str] = []

    def compiled(policy: Policy, facts: HostFacts, request: Request) -> Plan:
        uppers.append(request.upper)
        return compile_plan(policy, facts, request)

    monkeypatch.setattr(decision, "compile_plan", compiled)
    told: list[tuple[str, str]] = []
    report = run(fake.success(), rootfs, notify=lambda *words: told.append(words))
    assert report.storage == "overlay"
    assert "input/output error" in report.storage_reason
    loud = [lost.lost for lost in report.degradations if not lost.quiet]
    assert loud == ["the size limit of the writable layer"]
    assert told[0][0] == "without the size limit of the writable layer"
    assert "preparing" not in str(told)
    assert os.path.dirname(os.path.dirname(uppers[-1])) == runs_dir()
    assert [name for name in os.listdir(runs_dir()) if not name.startswith(".")] == []


def test_prepare_starts_and_creates_nothing(
    rootfs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "launch", None)
    found = prepare(policy(), Task(rootfs, ("true",), env=()))
    assert found.plan.storage == "overlay"
    assert found.storage_reason == ""
    assert not (tmp_path / "cache/sbx/runs").exists()


@pytest.mark.parametrize("name", ["missing/report", "rootfs"])
def test_a_report_that_has_no_place_is_refused_before_the_start(
    rootfs: str, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="cannot write the report"):
        run(fake.success(), rootfs, report_path=str(tmp_path / name))


def test_a_report_that_fails_at_the_end_leaves_the_code(rootfs: str, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    told: list[str] = []

    def tell(what: str, _cause: str) -> None:
        told.append(what)
        if what.startswith("step 1"):
            folder.rmdir()

    steps: Steps = [["warning", 0, errno.EPERM, "x"], *fake.success(code=5)]
    report = run(steps, rootfs, report_path=str(folder / "report"), notify=tell)
    assert report.exit_code == 5
    assert told[-1].startswith("cannot write the report")


# ---- bad input ------------------------------------------------------------------------------


def test_bad_input_creates_nothing(rootfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = policy()
    for name in ("host_facts", "launch"):
        monkeypatch.setattr(session, name, None)
    monkeypatch.setattr(prepared, "make_workspace", None)
    with pytest.raises(SbxError):
        run_session(wanted, Task(rootfs, ("true",), pass_fds=(1,)), RunOptions())
    assert not os.path.exists(runs_dir())

"""The public face: names, import cost, likeness to subprocess.run."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.api import held
from sandbox.runtime import session
from sandbox.runtime.description import Description
from sandbox.runtime.registry import claim
from sandbox.runtime.report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.runtime.supervise import Turns

ROOT = Path(sandbox.__file__).parents[1]
HEAVY = {
    "argparse", "asyncio", "click", "contextlib", "dataclasses", "datetime", "enum", "inspect",
    "json", "logging", "msgspec", "pathlib", "re", "selectors", "shutil", "socket", "subprocess",
    "tempfile", "threading", "tomllib", "typing",
}  # fmt: skip

REPORT = Report(
    "box", "exited", 0, 0, None, 0.0, 0.0, 0.0, 0, 0, 0, (), (), "overlay", "", "none", "strict",
    "range", 7,
)  # fmt: skip


class Played:
    """Stands in for session_turns: notes what it was called with, writes, reports."""

    def __init__(self) -> None:
        self.report = REPORT
        self.out, self.err = b"out\r\n", b"err"
        self.policy: Any = None
        self.task: Any = None
        self.options: Any = None

    def __call__(self, policy: Any, task: Any, options: Any) -> Turns[Report]:
        self.policy, self.task, self.options = policy, task, options
        for target, data in ((options.stdout, self.out), (options.stderr, self.err)):
            if isinstance(target, bytearray):
                target += data
            elif callable(target):
                target(data)
        yield None
        return self.report


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    stage = Played()
    monkeypatch.setattr(session, "session_turns", stage)
    return stage


def run(*argv: str, **options: Any) -> sandbox.Result:
    return sandbox.run(argv or ["true"], rootfs="/srv", **options)


# ---- the module -----------------------------------------------------------------------------


def test_all_is_exact() -> None:
    for name in sandbox.__all__:
        assert getattr(sandbox, name) is not None
    assert set(sandbox.__all__) <= set(dir(sandbox))
    # pytest rewrites the packages of its plugins, and leaves names of its own in them.
    public = {name for name in vars(sandbox) if not name.startswith(("_", "@"))}
    rooms = {name.split(".")[1] for name in sys.modules if name.startswith("sandbox.")}
    assert public - rooms - {"annotations", "TYPE_CHECKING"} == set()
    with pytest.raises(AttributeError, match="nothing"):
        sandbox.nothing  # noqa: B018


def loaded_by(code: str) -> set[str]:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_import_brings_nothing_along() -> None:
    assert loaded_by("import sandbox") - loaded_by("pass") <= {"sandbox", "__future__"}


@pytest.mark.parametrize(
    "module",
    [
        "sandbox.api.run",
        "sandbox.launcher.spawn",
        "sandbox.runtime.session",
        "sandbox.runtime.report",
    ],
)
def test_the_start_path_is_light(module: str) -> None:
    assert loaded_by(f"import {module}") & HEAVY == set()


# ---- run ------------------------------------------------------------------------------------


def test_captured_bytes_and_text(played: Played) -> None:
    result = run(capture_output=True)
    assert (result.stdout, result.stderr, result.returncode) == (b"out\r\n", b"err", 0)
    assert result.args == ("true",)
    assert result.report is played.report
    text = run(capture_output=True, text=True)
    assert (text.stdout, text.stderr) == ("out\n", "err")
    assert run(stdout=sandbox.PIPE, encoding="utf-16", errors="replace").stderr is None


def test_streams_by_name(played: Played, tmp_path: Path) -> None:
    run()
    assert (played.options.stdin, played.options.stdout, played.options.stderr) == (None, 1, 2)
    with open(tmp_path / "file", "w+b") as file:
        run(stdin=file, stdout=file, stderr=sandbox.DEVNULL)
        fd = file.fileno()
    assert (played.options.stdin, played.options.stdout, played.options.stderr) == (fd, fd, None)
    run(stdin=sandbox.DEVNULL, stdout=5, stderr=sandbox.STDOUT)
    assert (played.options.stdin, played.options.stdout) == (None, 5)
    assert played.options.merge_stderr


def test_names_are_those_of_subprocess() -> None:
    for name in ("PIPE", "STDOUT", "DEVNULL"):
        assert getattr(sandbox, name) == getattr(subprocess, name)


def test_input(played: Played) -> None:
    run(input=b"x")
    assert played.options.stdin == b"x"
    run(input="ä", encoding="utf-8")
    assert played.options.stdin == "ä".encode()


def test_arguments_become_the_last_layer_of_the_policy(played: Played) -> None:
    mount = sandbox.Mount(".", "/src", read_only=True)
    run(
        policy="default",
        timeout=1.5,
        env={"A": "b"},
        cwd="/src",
        user=1000,
        mounts=[mount],
        network="host",
        name="box",
    )
    policy = played.policy
    assert policy.process.timeout == 1.5
    assert dict(policy.process.env)["A"] == "b"
    assert policy.process.cwd == "/src"
    assert policy.identity.user == 1000
    assert mount.replace(source=os.getcwd()) in policy.filesystem.mounts
    assert policy.network.mode == "host"
    assert policy.origin("process.timeout") == "sandbox.run"
    assert (played.task.name, played.task.rootfs) == ("box", "/srv")
    assert not played.options.forward_signals


def test_paths_are_taken(played: Played, tmp_path: Path) -> None:
    sandbox.run([Path("/bin/true")], rootfs=tmp_path)
    assert (played.task.argv, played.task.rootfs) == (("/bin/true",), str(tmp_path))


def test_a_signal_is_a_negative_code(played: Played) -> None:
    played.report = REPORT.replace(reason="signalled", code=None, signal=9, exit_code=137)
    assert run().returncode == -signal.SIGKILL
    played.report = REPORT.replace(reason="launcher-killed", code=None, exit_code=137)
    assert run().returncode == -signal.SIGKILL


def test_check_raises_what_subprocess_would(played: Played) -> None:
    played.report = REPORT.replace(code=3, exit_code=3)
    with pytest.raises(sandbox.CommandFailed) as caught:
        run("tool", capture_output=True, check=True)
    error = caught.value
    assert isinstance(error, subprocess.CalledProcessError)
    assert isinstance(error, sandbox.SbxError)
    assert (error.returncode, error.cmd, error.stdout) == (3, ("tool",), b"out\r\n")
    assert (error.output, error.stderr, error.exit_code) == (b"out\r\n", b"err", 3)
    assert str(error) == "'tool' failed with exit code 3"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert again.result == error.result
    played.report = REPORT
    assert run(check=True).returncode == 0


def test_a_time_limit_carries_what_there_was(played: Played) -> None:
    played.report = REPORT.replace(reason="timeout", code=None, signal=15, exit_code=124)
    with pytest.raises(sandbox.TimeoutExpired) as caught:
        run("tool", capture_output=True)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value.result, sandbox.Result)
    assert caught.value.result.stdout == b"out\r\n"


def test_output_is_heard_as_it_comes(played: Played) -> None:
    heard: list[Any] = []
    played.out, played.err = "ä\r\n".encode(), b"err\r"
    result = run(capture_output=True, on_stdout=heard.append, encoding="utf-8")
    assert heard == ["ä\n"]
    assert (result.stdout, result.stderr) == ("ä\n", "err\n")
    assert run(on_stdout=heard.append).stdout is None
    assert heard[-1] == "ä\r\n".encode()
    run(on_stderr=heard.append, text=True)
    assert heard[-2:] == ["err", "\n"]  # the newline might have gone on


@pytest.mark.parametrize(
    "options",
    [
        {"on_stdout": print, "stdout": 1},
        {"on_stderr": print, "stderr": sandbox.STDOUT},
        {"input": b"x", "stdin": 0},
        {"capture_output": True, "stdout": sandbox.PIPE},
        {"capture_output": True, "stderr": sandbox.PIPE},
        {"stdout": sandbox.STDOUT},
        {"input": "text without text=True"},
    ],
)
def test_contradictions_are_value_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        run(**options)


def test_a_string_is_no_command() -> None:
    with pytest.raises(sandbox.UsageError, match="list of words"):
        sandbox.run("ls -l", rootfs="/srv")


def test_an_unknown_policy_and_wrong_values_are_policy_errors() -> None:
    with pytest.raises(sandbox.PolicyError):
        run(policy="nonexistent")
    with pytest.raises(sandbox.PolicyError) as caught:
        run(cwd="relative", network="bogus")
    assert len(caught.value.problems) == 2


def test_rules_of_the_network(played: Played) -> None:
    with pytest.raises(sandbox.PolicyError) as caught:
        run(network="user", allow=["exa mple", "b"], publish=["80"], dns=["x"])
    assert len(caught.value.problems) == 3
    with pytest.raises(sandbox.UsageError, match="allow must be a list"):
        run(network="user", allow="example.org")
    with pytest.raises(sandbox.PolicyError, match=r"needs network\.mode"):
        run(allow=["example.org"])
    with pytest.raises(sandbox.UsageError, match="env must be a mapping"):
        run(env=["A=1"])
    assert played.policy is None
    lists = {"allow": ["example.org:443"], "deny": ["a.example"], "dns": ["192.0.2.1"]}
    run(network="user", publish=["0:80"], **lists)
    policy: Any = played.policy
    assert {name: list(getattr(policy.network, name)) for name in lists} == lists
    assert policy.network.publish == ("0:80",)
    assert not policy.landlock.tcp
    run(policy=sandbox.Policy.strict().with_network("user", allow=lists["allow"]), network="none")
    policy = played.policy
    assert (policy.network.mode, *policy.network.allow) == ("none", *lists["allow"])


def test_limits(played: Played) -> None:
    run(pids=64, memory="512M", cpus=1.5)
    policy: Any = played.policy
    assert {limit.name: limit.soft for limit in policy.rlimits}["nproc"] == 64
    assert policy.origin("rlimits.nproc") == "sandbox.run"
    assert (policy.resources.memory, policy.resources.cpus) == (512 << 20, 1.5)
    assert policy.asked("resources.memory")


def test_an_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="executable"):
        run(executable="sh")


# ---- Sandbox --------------------------------------------------------------------------------


def test_a_reused_number_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the caller ignores SIGCHLD, the launcher's number may be a stranger's by now."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(held, "_remove_roots", lambda: None)
    monkeypatch.setattr(held, "END_WAIT_S", 0.01)
    with subprocess.Popen(["sleep", "300"]) as stranger:
        known = Description(
            "0" * 12, "box", 0.0, "", "/", (), "", pid=stranger.pid, started_ticks=1
        )
        folder, lock = claim(known)
        os.close(lock)
        held._end(folder, os.getpid())
        assert stranger.poll() is None
        assert not os.path.exists(folder.path)
        stranger.kill()


# ---- Policy ---------------------------------------------------------------------------------


def test_a_policy_in_python_remembers_its_words(played: Played) -> None:
    base = sandbox.Policy.strict()
    policy = (
        base.with_mount(".", "/src")
        .with_tmpfs("/scratch", size="8M")
        .with_env(A="b")
        .with_limit(nofile=99)
        .with_timeout("2m")
        .with_network("none")
        .with_user(1000)
        .with_output_limit("1M")
        .with_root(read_only=True)
    )
    assert base == sandbox.Policy.strict()
    run(policy=policy, env={"C": "d"})
    made = played.policy
    assert made.filesystem.mounts[-1].source == os.getcwd()
    assert {mount.target: mount.size for mount in made.filesystem.tmpfs}["/scratch"] == 8 << 20
    assert {"A": "b", "C": "d"}.items() <= dict(made.process.env).items()
    assert (made.process.timeout, made.process.output_limit) == (120, 1 << 20)
    assert made.identity.user == 1000
    assert made.filesystem.read_only
    assert made.origin("process.timeout") == "Policy.with_timeout"
    assert made.origin("filesystem.mounts./src") == "Policy.with_mount"
    assert made.origin("process.env.C") == "sandbox.run"
    assert ("process.timeout", '"2m"', "Policy.with_timeout") in policy.describe()


def test_equal_wishes_are_merged_once_and_changed_ones_anew(played: Played, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "strict"\n[process]\ntimeout = "7s"\n')
    run(policy=path, env={"A": "b"})
    first: Any = played.policy
    run(policy=str(path), env={"A": "b"})
    assert played.policy is first
    path.write_text('extends = "strict"\n[process]\ntimeout = "8s"\n')
    run(policy=path, env={"A": "b"})
    assert played.policy.process.timeout == 8
    with pytest.raises(sandbox.PolicyError):
        run(env={"A": object()})


def test_a_wrong_policy_names_the_words_that_made_it_so() -> None:
    policy = sandbox.Policy.default().with_timeout("long").with_network("bogus")
    with pytest.raises(sandbox.PolicyError) as caught:
        policy.check()
    assert len(caught.value.problems) == 2
    assert "Policy.with_timeout" in str(caught.value)


def test_mounts_are_no_strings(tmp_path: Path) -> None:
    with pytest.raises(sandbox.UsageError) as caught:
        sandbox.run(["ls"], rootfs=tmp_path, mounts=["./src:/s"])  # type: ignore[list-item]
    assert "sandbox.Mount(" in caught.value.hint


def test_an_unknown_keyword_names_what_was_called(tmp_path: Path) -> None:
    box = sandbox.Sandbox(rootfs=tmp_path)
    calls: dict[str, Any] = {
        "sandbox.run": lambda **more: sandbox.run(["ls"], rootfs=tmp_path, **more),
        "sandbox.Popen": lambda **more: sandbox.Popen(["ls"], rootfs=tmp_path, **more),
        "sandbox.Sandbox": lambda **more: sandbox.Sandbox(rootfs=tmp_path, **more),
        "SandboxExecutor": lambda **more: sandbox.SandboxExecutor(rootfs=tmp_path, **more),
        "Sandbox.run": lambda **more: box.run(["ls"], **more),
        "Sandbox.popen": lambda **more: box.popen(["ls"], **more),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError) as caught:
            call(polcy="strict")
        assert str(caught.value) == f"{name}() got an unexpected keyword argument 'polcy'"


def test_a_sandbox_is_shown_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert repr(sandbox.Sandbox(rootfs=tmp_path)) == "<Sandbox: not running>"
    folder, lock = claim(Description("0123456789ab", "box", 0.0, "", "/", ("true",), "strict"))
    assert repr(sandbox.Sandbox.find("box")) == "<Sandbox: box>"
    os.close(lock)
    folder.close()


def test_a_timeout_is_that_of_subprocess_too() -> None:
    error = sandbox.TimeoutExpired("it was ended", ["a", "b"], 2.5, stdout=b"x", stderr=b"y")
    made: tuple[Any, ...] = (error, pickle.loads(pickle.dumps(error)))  # noqa: S301 (ours)
    for again in made:
        assert {subprocess.TimeoutExpired, TimeoutError} <= set(type(again).__mro__)
        assert (again.cmd, again.timeout, again.output, again.stderr) == (
            ["a", "b"],
            2.5,
            b"x",
            b"y",
        )
        assert (str(again), again.stdout, again.exit_code) == ("it was ended", b"x", 124)

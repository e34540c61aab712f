"""Flags become one policy layer that knows its origins, and wrong ones are named together."""

from __future__ import annotations

import pytest

from sandbox.cli.flags import Flags, raise_problems, read_flags
from sandbox.cli.options import RUN_FORM
from sandbox.cli.parse import parse
from sandbox.errors import UsageError


def read(*words: str) -> Flags:
    parsed = parse([*words, "root", "cmd"], RUN_FORM)
    assert parsed is not None
    return read_flags(parsed)


def test_settings_and_origins() -> None:
    flags = read(
        "-v/a:/b", "--mount=type=bind,src=/c,dst=/d", "--tmpfs=/t", "-eA=1", "--hostname=h",
        "--timeout=5m", "--no-init", "-t", "--root", "--cap-drop=ALL", "--cap-add=chown",
        "--ulimit=nofile=1:2", "--network=host", "--storage=copy", "--persist=/p", "-w", "/w",
        "--read-only", "--output-limit=1k", "--security-opt=seccomp=unconfined",
    )  # fmt: skip
    assert flags.problems == ()
    assert flags.data == {
        "filesystem": {
            "mounts": [{"source": "/a", "target": "/b"}, {"source": "/c", "target": "/d"}],
            "tmpfs": [{"target": "/t"}],
            "read_only": True,
            "root": "copy",
            "persist": "/p",
        },
        "process": {
            "env": {"A": "1"}, "hostname": "h", "timeout": "5m", "init": False, "tty": True,
            "cwd": "/w", "output_limit": "1k",
        },
        "identity": {"user": 0},
        "capabilities": {"drop": ["ALL"], "add": ["chown"]},
        "rlimits": {"nofile": "1:2"},
        "network": {"mode": "host"},
        "seccomp": {"base": "unconfined"},
    }  # fmt: skip
    assert flags.origins["process.hostname"] == "--hostname"
    assert flags.origins["process.env.A"] == "--env"
    assert flags.origins["rlimits.nofile"] == "--ulimit"
    assert flags.origins["identity.user"] == "--root"
    assert flags.origins["filesystem.mounts[0]"] == "--volume"
    assert flags.origins["filesystem.mounts[1]"] == "--mount"


def test_env_goes_before_env_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("env") / "file"
    file.write_text("A=file\nB=file\n")
    for words in (("-eA=flag", f"--env-file={file}"), (f"--env-file={file}", "-eA=flag")):
        flags = read(*words)
        assert flags.data["process"]["env"] == {"A": "flag", "B": "file"}
        assert flags.origins["process.env.A"] == "--env"
        assert flags.origins["process.env.B"] == "--env-file"


def test_all_wrong_values_are_named() -> None:
    flags = read("-vdata:/x", "-v/ok:/ok", "--timeout=", "--name=a/b", "--pass-fd=1")
    assert [problem.partition(":")[0] for problem in flags.problems] == [
        "--volume",
        "--pass-fd",
        "--name",
        "--timeout",
    ]
    assert flags.data == {"filesystem": {"mounts": [{"source": "/ok", "target": "/ok"}]}}
    with pytest.raises(UsageError, match="the command line has 4 problems") as caught:
        raise_problems(flags.problems, "sbx run")
    assert caught.value.problems == flags.problems
    assert caught.value.exit_code == 2


def test_a_single_problem_is_the_error_itself() -> None:
    with pytest.raises(UsageError, match=r"^--network: must not be empty\n") as caught:
        raise_problems(read("--network=").problems, "sbx run")
    assert caught.value.problems == ()
    raise_problems((), "sbx run")


def test_contradictions() -> None:
    assert read("--root", "-u", "5").problems == ("--root: contradicts --user",)
    assert read("--root", "-u", "0").problems == ()


def test_values_that_steer_the_run() -> None:
    flags = read("--pass-fd=0", "--report=-", "--status-fd=2", "--name=box", "--policy=strict")
    assert flags.problems == ("--pass-fd: 0 is taken; standard input and output are always there",)
    assert flags.run == {
        "--policy": "strict", "--report": "-", "--status-fd": 2, "--name": "box",
    }  # fmt: skip
    assert flags.data == {}


def test_nul_bytes() -> None:
    assert read("--hostname=a\0b").problems == ("--hostname: must not hold a NUL byte",)

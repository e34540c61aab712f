"""The whole launcher under AddressSanitizer and UBSan, on real plans.

A finding ends the process that made it with an exit code of its own before the payload starts, or
after it ended: so a run that gives what it should is a run without findings.
"""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SetupError
from sandbox.launcher.spawn import Program
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime import gather
from sandbox.runtime.report import Report
from sandbox.runtime.session import RunOptions, run_session
from sandbox.runtime.task import Task

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "helpers/launcher").glob("*.c"), ROOT / "helpers/newuidmap_wrapper/idmap.c"]
# The launcher's environment is empty: its options are compiled in. Leaks are looked for by means
# of ptrace, which the payload's neighbours may not have.
OPTIONS = """
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0:exitcode=99"; }
const char *__ubsan_default_options(void) { return "halt_on_error=1:exitcode=99"; }
"""
BROKEN = """
#include <stdlib.h>
static volatile int eight = 8;
static volatile char room[8];
static void break_it(void) __attribute__((constructor));
static void break_it(void)
{
    volatile char *heap = malloc(eight);
    %s[eight] = 1;
    room[0] = heap[0];
}
"""


def build(folder: Path, extra: str = "") -> Path:
    options = folder / "options.c"
    options.write_text(OPTIONS + extra)
    problem = "no C compiler with AddressSanitizer"
    for compiler in ("gcc", "clang"):
        if not shutil.which(compiler):
            continue
        words = [compiler, "-std=c11", "-g", "-O1", "-fsanitize=address,undefined"]
        words += ["-fno-sanitize-recover=all", "-DSBX_UNSEALED_IMAGE"]
        words += [*map(str, SOURCES), str(options), "-o", str(folder / "launcher")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return folder / "launcher"
        problem = done.stderr[-2000:]
    pytest.skip(problem)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sanitized"))


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))


def run(
    program: Path,
    rootfs: Path,
    *argv: str,
    policy: str = "default",
    changes: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Report, str, str]:
    out, err = bytearray(), bytearray()
    wanted = build_policy([*load_policy(policy), Layer("test", changes or {}, {})])
    options = {"stdout": out, "stderr": err, "forward_signals": False, **options}
    report = run_session(
        wanted,
        Task(str(rootfs), argv, env=()),
        RunOptions(program=Program(str(program)), **options),
    )
    return report, out.decode(), err.decode()


@pytest.mark.parametrize("policy", ["strict", "default", "ci", "permissive"])
@pytest.mark.parametrize("init", [True, False])
def test_every_policy(launcher: Path, rootfs: Path, policy: str, init: bool) -> None:
    changes = {"process": {"init": init}}
    words = ("sh", "-c", "echo out; echo err >&2; exit 7")
    report, out, err = run(launcher, rootfs, *words, policy=policy, changes=changes)
    assert (report.code, out, err) == (7, "out\n", "err\n")


def test_mounts_of_every_kind(launcher: Path, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "folder/deep").mkdir(parents=True)
    (tmp_path / "file").write_text("text")
    keep = tmp_path / "keep"
    keep.mkdir()
    many = [
        {"source": str(tmp_path / "folder"), "target": f"/many/{n}", "read_only": n % 2 == 0}
        for n in range(40)
    ]
    files = {
        "mounts": [
            *many,
            {"source": str(tmp_path / "file"), "target": "/made/here/file"},
            {"source": f"{tmp_path}/none", "target": "/none", "optional": True},
        ],
        "tmpfs": [{"target": "/deep/in/tmp", "size": "1M", "inodes": 100}],
        "persist": str(keep),
    }
    script = "cat /made/here/file; echo x > /deep/in/tmp/x && echo y > /y && ls /many | wc -l"
    report, out, err = run(launcher, rootfs, "sh", "-c", script, changes={"filesystem": files})
    assert (report.code, out.split()) == (0, ["text40"]), err
    assert (keep / "upper/y").exists()


@pytest.mark.parametrize("storage", ["copy", "bind"])
def test_other_roots(launcher: Path, rootfs: Path, tmp_path: Path, storage: str) -> None:
    root = tmp_path / "rootfs"
    shutil.copytree(rootfs, root, symlinks=True)
    files = {"root": storage, "read_only": storage == "bind"}
    words = ("sh", "-c", "echo hi")
    report, out, err = run(launcher, root, *words, changes={"filesystem": files})
    assert (report.code, out) == (0, "hi\n"), err


def test_the_hosts_root(launcher: Path) -> None:
    assert run(launcher, Path("/"), "/bin/echo", "hi", policy="strict")[1] == "hi\n"


@pytest.mark.parametrize(
    "identity", [{"map": "single"}, {"map": "range", "user": 0}, {"user": 33, "group": 44}]
)
def test_identities(launcher: Path, rootfs: Path, identity: dict[str, Any]) -> None:
    report, out, err = run(launcher, rootfs, "id", "-u", changes={"identity": identity})
    assert report.code == 0, err
    assert int(out) == identity.get("user", os.getuid())


def test_a_terminal(launcher: Path, rootfs: Path) -> None:
    master, slave = pty.openpty()
    try:
        changes = {"process": {"tty": True}}
        report, _, _ = run(
            launcher, rootfs, "sh", "-c", "tty; exit 3", changes=changes, stdin=slave, stdout=slave
        )
        assert report.code == 3
        assert b"/dev/pts/0" in os.read(master, 100)
    finally:
        os.close(master)
        os.close(slave)


def test_ends_of_every_kind(launcher: Path, rootfs: Path) -> None:
    assert run(launcher, rootfs, "sh", "-c", "kill -9 $$")[0].signal == signal.SIGKILL
    assert run(launcher, rootfs, "sh", "-c", "sleep 60 & exit 4")[0].code == 4
    limit = {"process": {"timeout": 0.3, "grace": 0.1}}
    words = ("sh", "-c", "trap '' TERM; sleep 60")
    assert run(launcher, rootfs, *words, changes=limit)[0].reason == "timeout"
    script = "i=0; while [ $i -lt 50 ]; do (sleep 0 &); i=$((i+1)); done; exit 6"
    assert run(launcher, rootfs, "sh", "-c", script)[0].code == 6


@pytest.mark.parametrize(
    ("changes", "argv", "words"),
    [
        ({"process": {"cwd": "/no/such"}}, ("true",), "/no/such"),
        ({}, ("no-such-command",), "no-such-command"),
        ({}, ("/etc/passwd",), "/etc/passwd"),
        ({"filesystem": {"mounts": [{"source": "/etc", "target": "/bin/sh/x"}]}}, ("true",), "/x"),
        ({"sysctls": {"net.no.such": "1"}}, ("true",), "net/no/such"),
    ],
)
def test_failures(
    launcher: Path,
    rootfs: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    argv: tuple[str, ...],
    words: str,
) -> None:
    # What is refused before anything is made may still change afterwards: the launcher looks too.
    monkeypatch.setattr(gather, "check_places", lambda *_, **__: None)
    with pytest.raises(SetupError) as caught:
        run(launcher, rootfs, *argv, changes=changes)
    assert words in str(caught.value)


def test_long_command_lines(launcher: Path, rootfs: Path) -> None:
    words = [("x" * 100_000), *("y" * 100 for _ in range(5000))]
    report, out, _ = run(launcher, rootfs, "sh", "-c", "echo $#", "sh", *words)
    assert (report.code, out) == (0, "5001\n")


@pytest.mark.parametrize("where", ["heap", "room"])
def test_a_finding_is_seen(rootfs: Path, tmp_path: Path, where: str) -> None:
    """Both sanitizers are at work in this build: a write out of bounds ends the launcher."""
    broken = build(tmp_path, BROKEN % where)
    with pytest.raises(SetupError) as caught:
        run(broken, rootfs, "true")
    assert "exit code 99" in str(caught.value)

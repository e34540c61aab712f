"""SandboxExecutor: jobs in sandboxes, and what a hostile one can send back."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

import sandbox
from tests.conftest import Sbx


@pytest.fixture(autouse=True)
def folders(sbx: Sbx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of the tests' own."""
    for name, value in sbx.env.items():
        if name.startswith("XDG_"):
            monkeypatch.setenv(name, value)


def executor(debian_own: Path, **options: Any) -> sandbox.SandboxExecutor:
    """Two workers on a root that has Python."""
    return sandbox.SandboxExecutor(2, rootfs=debian_own, policy="strict", **options)


def _same_python(debian_own: Path) -> bool:
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return (debian_own / "usr/bin" / name).exists()


def test_commands(debian_own: Path) -> None:
    with executor(debian_own) as pool:
        jobs = [pool.submit(["seq", str(n), str(n)], stdout=sandbox.PIPE) for n in range(6)]
        assert [job.result().stdout for job in jobs] == [b"%d\n" % n for n in range(6)]
        with pytest.raises(sandbox.CommandNotFound):
            pool.submit(["nonexistent"]).result()
        with pytest.raises(sandbox.UsageError):
            pool.submit("echo")
        with pytest.raises(sandbox.UsageError):
            pool.submit(["echo"], "x")
    with pytest.raises(RuntimeError):
        pool.submit(["true"])


def test_a_wrong_policy_is_said_at_once(debian_own: Path) -> None:
    with pytest.raises(sandbox.PolicyError):
        executor(debian_own, network="bogus")


def test_callables(debian_own: Path) -> None:
    if not _same_python(debian_own):
        pytest.skip("the root file system has another Python")
    secret = 41

    def work(number: int, *, plus: int = 0) -> Any:
        print("this is no answer")
        return {"sum": number + plus + secret, "pid": (os.getpid(), b"x", {1.5}, None)}

    def fail(number: int) -> None:
        raise KeyError(number, "\033[2J")

    def own() -> None:
        class OwnError(Exception):
            pass

        raise OwnError("mine")

    with executor(debian_own) as pool:
        value = pool.submit(work, 1, plus=2).result()
        assert value["sum"] == 44
        assert value["pid"][1:] == (b"x", {1.5}, None)
        assert list(pool.map(lambda n: n * n, range(4))) == [0, 1, 4, 9]
        with pytest.raises(KeyError) as caught:
            pool.submit(fail, 7).result()
        assert caught.value.args == (7, "\\x1b[2J")
        assert "in fail" in caught.value.__cause__.trace  # type: ignore[union-attr]
        with pytest.raises(sandbox.RemoteError, match="OwnError: mine"):
            pool.submit(own).result()
        with pytest.raises(TypeError, match="no plain value"):
            pool.submit(object).result()


def test_a_job_that_dies_breaks_only_itself(debian_own: Path) -> None:
    if not _same_python(debian_own):
        pytest.skip("the root file system has another Python")
    with executor(debian_own) as pool:
        with pytest.raises(BrokenExecutor) as caught:
            pool.submit(lambda: os.kill(os.getpid(), 9)).result()
        assert isinstance(caught.value, sandbox.WorkerEnded)
        assert caught.value.report.signal == signal.SIGKILL
        assert pool.submit(lambda: 1).result() == 1
    with executor(debian_own, timeout=1.0) as pool, pytest.raises(sandbox.TimeoutExpired):
        pool.submit(lambda: __import__("time").sleep(300)).result()


HOSTILE = {
    "a pickle": b"cos\nmkdir\n(S'%s'\ntR.",
    "no JSON": b"\xff\xfe",
    "half of an answer": b'["tuple","result"',
    "deep": b"[" * 100_000,
    "an unknown kind": b'["tuple","result",["object"]]',
    "a class that is none": b'["tuple","error","builtins","eval",["tuple","1"],"",""]',
    "a class that ends us": b'["tuple","error","builtins","SystemExit",["tuple",0],"",""]',
    "an unhashable key": b'["tuple","result",["dict",[["list"],1]]]',
    "nothing": b"",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_hostile_answers_do_nothing(debian_own: Path, tmp_path: Path, answer: bytes) -> None:
    if not _same_python(debian_own):
        pytest.skip("the root file system has another Python")
    trap = tmp_path / "trap"
    answer = answer.replace(b"%s", os.fsencode(trap))

    def forge() -> None:
        os.write(3, answer)  # where it answers; tried on all that are open
        for fd in range(3, 20):
            try:
                os.write(fd, answer)
            except OSError:
                continue
        os._exit(0)

    with executor(debian_own) as pool, pytest.raises((sandbox.WorkerEnded, sandbox.RemoteError)):
        pool.submit(forge).result()
    assert not trap.exists()


def test_objects_come_back_only_where_that_is_wanted(debian_own: Path, tmp_path: Path) -> None:
    if not _same_python(debian_own):
        pytest.skip("the root file system has another Python")
    trap = tmp_path / "trap"

    class Own:  # a class of a function travels by value
        def __init__(self, path: str) -> None:
            self.path = path

        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (self.path,)

    def make(path: str) -> Any:
        return Own(path)

    with executor(debian_own) as pool, pytest.raises(TypeError):
        pool.submit(make, str(trap)).result()
    assert not trap.exists()
    with executor(debian_own, trust_results=True) as pool:
        assert pool.submit(complex, 1, 2).result() == 1 + 2j
        pool.submit(make, str(trap)).result()
    assert trap.exists()  # which is why it is off by default

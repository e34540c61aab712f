"""`import sandbox`, installed, in this very process and in others that end badly."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from tests.conftest import Sbx

LONG = ["sh", "-c", "sleep 300 & (sleep 300 &); sleep 300"]


@pytest.fixture(autouse=True)
def box_options(
    sbx: Sbx, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """What every sandbox here is made with; no descriptor and no thread may stay."""
    for name, value in sbx.env.items():
        if name.startswith("XDG_"):
            monkeypatch.setenv(name, value)
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    yield {"rootfs": rootfs, "policy": "default"}
    gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert [thread.name for thread in threading.enumerate() if thread.name == "sandbox"] == []


def gone(pid: int) -> bool:
    """Whether no such process lives any more."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def until(what: Any) -> None:
    """Wait until something is true."""
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- Popen ----------------------------------------------------------------------------------


def test_popen_talks(box_options: dict[str, Any]) -> None:
    with sandbox.Popen(
        ["cat"], stdin=sandbox.PIPE, stdout=sandbox.PIPE, text=True, bufsize=1, **box_options
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("one\n")
        assert process.stdout.readline() == "one\n"
        assert process.poll() is None
        assert process.report is None
        assert "running" in repr(process)
    assert process.returncode == 0
    report: Any = process.report
    assert report.reason == "exited"
    assert gone(process.pid)


def test_popen_communicates_both_ways_at_once(box_options: dict[str, Any]) -> None:
    data = os.urandom(1 << 20)
    process = sandbox.Popen(
        ["sh", "-c", "cat; echo done >&2; exit 3"],
        stdin=sandbox.PIPE,
        stdout=sandbox.PIPE,
        stderr=sandbox.PIPE,
        **box_options,
    )
    assert process.communicate(data) == (data, b"done\n")
    assert process.wait() == 3
    process.close()


def test_popen_goes_on_after_a_timeout_and_loses_nothing(box_options: dict[str, Any]) -> None:
    process = sandbox.Popen(
        ["sh", "-c", "echo one; cat; echo two"],
        stdin=sandbox.PIPE,
        stdout=sandbox.PIPE,
        text=True,
        **box_options,
    )
    assert process.stdin
    keep = os.dup(process.stdin.fileno())
    with pytest.raises(sandbox.TimeoutExpired) as caught:
        process.communicate("x\n", timeout=0.5)
    assert str(caught.value.stdout).startswith("one\n")
    assert process.poll() is None
    os.close(keep)
    assert process.communicate() == ("one\nx\ntwo\n", None)
    with pytest.raises(sandbox.UsageError):
        process.communicate("again")


def test_popen_signals(box_options: dict[str, Any]) -> None:
    script = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    with sandbox.Popen(["sh", "-c", script], stdout=sandbox.PIPE, **box_options) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        assert process.wait(30) == 7
        process.kill()  # nothing happens any more
    for end, code in (("terminate", -signal.SIGTERM), ("kill", -signal.SIGKILL)):
        process = sandbox.Popen(["sleep", "300"], **box_options)
        getattr(process, end)()
        assert process.wait(30) == code
    with pytest.raises(sandbox.UsageError):
        process.send_signal(99)


def test_a_time_limit_holds_though_nobody_waits(box_options: dict[str, Any]) -> None:
    process = sandbox.Popen(LONG, timeout=0.2, **box_options)
    until(lambda: process.poll() is not None)
    report: Any = process.report
    assert report.reason == "timeout"
    assert gone(process.pid)


def test_a_dropped_popen_leaves_nothing(box_options: dict[str, Any]) -> None:
    process = sandbox.Popen(LONG, stdin=sandbox.PIPE, **box_options)
    pid = process.pid
    assert not gone(pid)
    if process.stdin:
        process.stdin.close()
    del process
    gc.collect()
    assert gone(pid)


def test_an_exception_in_with_kills(box_options: dict[str, Any]) -> None:
    with pytest.raises(KeyError), sandbox.Popen(LONG, **box_options) as process:
        raise KeyError
    assert process.returncode == -signal.SIGKILL
    assert gone(process.pid)


def test_what_cannot_start_is_said_at_once(box_options: dict[str, Any]) -> None:
    with pytest.raises(sandbox.CommandNotFound):
        sandbox.Popen(["nonexistent"], stdout=sandbox.PIPE, **box_options)
    with pytest.raises(FileNotFoundError):
        sandbox.run(["nonexistent"], **box_options)
    with pytest.raises(sandbox.UsageError):
        sandbox.Popen(["true"], stdout=sandbox.PIPE, on_stdout=print, **box_options)


def test_a_listener_that_fails_ends_the_sandbox(box_options: dict[str, Any]) -> None:
    def fail(_: bytes) -> None:
        raise KeyError("mine")

    began = time.monotonic()
    with pytest.raises(KeyError, match="mine"):
        sandbox.run(["sh", "-c", "echo x; sleep 300"], on_stdout=fail, **box_options)
    process = sandbox.Popen(["sh", "-c", "echo x; sleep 300"], on_stdout=fail, **box_options)
    with pytest.raises(KeyError, match="mine"):
        process.wait(60)
    assert time.monotonic() - began < 60


def test_a_timeout_kills_the_tree_before_it_is_raised(box_options: dict[str, Any]) -> None:
    script = "echo $$; sleep 300 & (sleep 300 &); sleep 300"
    with pytest.raises(sandbox.TimeoutExpired) as caught:
        sandbox.run(["sh", "-c", script], capture_output=True, timeout=0.5, **box_options)
    assert caught.value.stdout
    result: Any = caught.value.result
    assert gone(result.report.pid)


def test_host_and_explain(box_options: dict[str, Any]) -> None:
    host = sandbox.Host.probe()
    assert host.usable
    assert host.facts.uid == os.getuid()
    found = sandbox.explain(["true"], pids=64, **box_options)
    assert "sandbox.explain" in str(found)
    assert found.data["policy"] == "default"
    assert len(found.data["steps"]) > 10
    with pytest.raises(sandbox.RootfsError):
        sandbox.explain(["true"], rootfs="/nonexistent")


# ---- Sandbox --------------------------------------------------------------------------------


def test_commands_share_one_sandbox(sbx: Sbx, box_options: dict[str, Any]) -> None:
    with sandbox.Sandbox(name="shared", **box_options) as box:
        box.run(["sh", "-c", "echo kept > /tmp/file"], check=True)
        assert box.exec(["cat", "/tmp/file"], capture_output=True, text=True).stdout == "kept\n"
        assert box.name == "shared"
        assert box.report()["state"] == "running"
        told = sbx("exec", "shared", "cat", "/tmp/file")
        assert (told.returncode, told.stdout) == (0, "kept\n")
        done = box.run(
            ["sh", "-c", 'echo "$A"; pwd; exit 4'], env={"A": "b"}, cwd="/tmp", stdout=-1
        )
        assert (done.returncode, done.stdout) == (4, b"b\n/tmp\n")
        with box.popen(["cat"], stdin=sandbox.PIPE, stdout=sandbox.PIPE) as process:
            assert process.communicate(b"x") == (b"x", None)
        with pytest.raises(sandbox.TimeoutExpired):
            box.run(LONG, timeout=0.2)
        with pytest.raises(sandbox.CommandNotFound):
            box.run(["nonexistent"])
        with pytest.raises(sandbox.UsageError, match="NUL"):
            box.run(["a\0b"])
        box.pause()
        assert box.report()["state"] == "paused"
        box.unpause()
        assert box.run(["true"]).returncode == 0
        with pytest.raises(sandbox.StateError, match="it is running"):
            box.unpause()
        before, used = box.stats(), box.stats()
        assert isinstance(used, sandbox.Usage)
        assert used.pids >= 1
        assert used.memory_bytes > 0
        assert used.cpu_percent(before) >= 0
        assert list(box.logs()) == []
        identity = box.id
    with pytest.raises(sandbox.StateError):
        box.run(["true"])
    with pytest.raises(sandbox.StateError):
        sandbox.Sandbox.find(identity)
    box.close()


def test_a_sandbox_is_found_and_outlives_who_found_it(box_options: dict[str, Any]) -> None:
    with sandbox.Sandbox(**box_options) as box:
        with sandbox.Sandbox.find(box.id[:8]) as other:
            assert other.run(["seq", "1"], capture_output=True).stdout == b"1\n"
        assert box.run(["true"]).returncode == 0
        with sandbox.Sandbox.find(box.name) as other:
            other.kill()
        with pytest.raises(sandbox.StateError):
            box.run(["true"])


def test_a_limit_of_the_whole_sandbox(box_options: dict[str, Any]) -> None:
    with sandbox.Sandbox(timeout=0.3, **box_options) as box:
        box.run(["sleep", "300"])
        until(lambda: box.report()["state"] == "exited")
        assert box.report()["exit_code"] == 124


def test_a_dropped_sandbox_leaves_nothing(box_options: dict[str, Any]) -> None:
    box = sandbox.Sandbox(**box_options).start()
    pid, identity = box.report()["pid"], box.id
    del box
    gc.collect()
    assert isinstance(pid, int)
    assert gone(pid)
    with pytest.raises(sandbox.StateError):
        sandbox.Sandbox.find(identity)


def test_a_copied_root_is_removed(sbx: Sbx, box_options: dict[str, Any]) -> None:
    policy = sandbox.Policy.default().with_root(root="copy")
    with sandbox.Sandbox(rootfs=box_options["rootfs"], policy=policy) as box:
        box.run(["touch", "/made"], check=True)
        assert [name for name in os.listdir(sbx.cache / "sbx/runs") if name[0] != "."]
    assert [name for name in os.listdir(sbx.cache / "sbx/runs") if name[0] != "."] == []


def test_files_go_in_and_out(box_options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("from the host")
    with sandbox.Sandbox(**box_options) as box:
        box.write_file("/tmp/text", "ä", mode=0o600)
        assert box.read_file("/tmp/text") == "ä".encode()
        assert box.run(["stat", "-c", "%a", "/tmp/text"], capture_output=True).stdout == b"600\n"
        assert box.copy_in(tmp_path / "folder", "/tmp") == []
        box.run(["sh", "-c", "cd /tmp/folder; cat file > copy; ln -s /etc/passwd link"], check=True)
        assert box.copy_out("/tmp/folder", tmp_path / "out") == []
        assert (tmp_path / "out/copy").read_text() == "from the host"
        assert (tmp_path / "out/link").is_symlink()
        with pytest.raises(FileNotFoundError):
            box.read_file("/tmp/nothing")
        with pytest.raises(IsADirectoryError):
            box.read_file("/tmp")

    async def share() -> None:
        async with sandbox.AsyncSandbox(**box_options) as box:
            await box.write_file("/tmp/file", b"x")
            assert await box.read_file("/tmp/file") == b"x"
            await box.copy_in(tmp_path / "folder/file", "/tmp/in")
            await box.copy_out("/tmp/in", tmp_path / "file")

    asyncio.run(share())
    assert (tmp_path / "file").read_text() == "from the host"


# ---- asyncio --------------------------------------------------------------------------------


def test_asyncio_runs_many_at_once(box_options: dict[str, Any]) -> None:
    async def many() -> list[sandbox.Result]:
        runs = (
            sandbox.arun(["seq", str(n), str(n)], capture_output=True, text=True, **box_options)
            for n in range(200)
        )
        return await asyncio.gather(*runs)

    assert [result.stdout for result in asyncio.run(many())] == [f"{n}\n" for n in range(200)]


def test_cancelling_kills_first(box_options: dict[str, Any]) -> None:
    async def cancelled() -> None:
        heard: list[bytes] = []
        script = "echo x; sleep 300 & (sleep 300 &); sleep 300"
        task = asyncio.create_task(
            sandbox.arun(["sh", "-c", script], on_stdout=heard.append, **box_options)
        )
        while not heard:
            await asyncio.sleep(0.01)
        launcher = children_of_this_process()
        assert launcher
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not set(launcher) & set(children_of_this_process())

    asyncio.run(cancelled())


def children_of_this_process() -> list[str]:
    """The pids of all children."""
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()


def test_cancelling_at_any_time(box_options: dict[str, Any]) -> None:
    async def soon(delay_s: float) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sandbox.arun(LONG, **box_options), delay_s)

    for delay_ms in (0, 1, 2, 4, 6, 8, 12, 20, 40):
        asyncio.run(soon(delay_ms / 1000))


def test_async_streams(box_options: dict[str, Any]) -> None:
    async def stream() -> None:
        lines = []
        async with await sandbox.apopen(["seq", "3"], stdout=sandbox.PIPE, **box_options) as seq:
            assert seq.stdout
            lines = [line async for line in seq.stdout]
        assert lines == [b"1\n", b"2\n", b"3\n"]
        assert seq.returncode == 0
        script = "printf 'gr\\303'; sleep 0.2; printf '\\274n\\r\\na\\r'; sleep 0.2; printf '\\nb'"
        async with await sandbox.apopen(
            ["sh", "-c", script], stdout=sandbox.PIPE, encoding="utf-8", **box_options
        ) as words:
            assert await words.stdout.read(1) == "g"
            assert [line async for line in words.stdout] == ["rün\n", "a\n", "b"]
            assert await words.stdout.read() == ""
            assert words.stdout.at_eof()
        async with await sandbox.apopen(
            ["cat"], stdin=sandbox.PIPE, stdout=sandbox.PIPE, encoding="latin-1", **box_options
        ) as talk:
            talk.stdin.write("für\nzwei\n")
            await talk.stdin.drain()
            assert await talk.stdout.readline() == "für\n"
            talk.stdin.close()
            assert await talk.stdout.read() == "zwei\n"
        cat = await sandbox.apopen(
            ["cat"], stdin=sandbox.PIPE, stdout=sandbox.PIPE, text=True, **box_options
        )
        async with cat:
            assert await cat.communicate("x" * 300_000) == ("x" * 300_000, None)
        async with await sandbox.apopen(["sleep", "300"], **box_options) as sleep:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sleep.wait(), 0.1)
            assert sleep.returncode is None
            sleep.terminate()
            assert await sleep.wait() == -signal.SIGTERM
        with pytest.raises(KeyError):
            async with await sandbox.apopen(LONG, **box_options) as sleep:
                raise KeyError
        assert gone(sleep.pid)
        with pytest.raises(sandbox.CommandNotFound):
            await sandbox.apopen(["nonexistent"], stdout=sandbox.PIPE, **box_options)

    asyncio.run(stream())


def test_the_end_of_the_loop_ends_what_was_left(box_options: dict[str, Any]) -> None:
    async def leave() -> int:
        return (await sandbox.apopen(LONG, **box_options)).pid

    assert gone(asyncio.run(leave()))


def test_an_async_sandbox(box_options: dict[str, Any]) -> None:
    async def share() -> None:
        async with sandbox.AsyncSandbox(**box_options) as box:
            await box.run(["sh", "-c", "echo kept > /tmp/file"], check=True)
            done = await asyncio.gather(
                *(box.run(["cat", "/tmp/file"], capture_output=True) for _ in range(10))
            )
            assert {result.stdout for result in done} == {b"kept\n"}
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(box.run(LONG), 0.2)
            process = await box.popen(["sleep", "300"])
            process.kill()
            assert await process.wait() == -signal.SIGKILL
            await box.pause()
            await box.unpause()
            assert (await box.stats()).pids >= 1
            await box.kill()
            with pytest.raises(sandbox.StateError):
                await box.stats()

    asyncio.run(share())


# ---- other processes and threads --------------------------------------------------------------


def test_threads_start_sandboxes(box_options: dict[str, Any]) -> None:
    found: list[str] = []
    together = threading.Barrier(50)

    def one(number: int) -> None:
        script = ["sh", "-c", f"echo {number}"]
        together.wait(30)
        found.append(sandbox.run(script, capture_output=True, text=True, **box_options).stdout)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, found)) == list(range(50))


def _in_a_child(options: dict[str, Any]) -> None:
    sys.exit(sandbox.run(["sh", "-c", "exit 5"], **options).returncode)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method: str, box_options: dict[str, Any]) -> None:
    """A forked copy of a Popen is no owner of it: its end is not the sandbox's."""
    process = sandbox.Popen(["sleep", "300"], **box_options)
    box = sandbox.Sandbox(**box_options).start()
    context: Any = multiprocessing.get_context(method)
    others = [context.Process(target=_in_a_child, args=(box_options,)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [5] * 3
    assert process.poll() is None
    assert box.run(["true"]).returncode == 0
    process.kill()
    process.wait()
    box.close()
    if method == "spawn":
        multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


ENDS = {
    "falls off the end": "",
    "exit": "sys.exit(3)",
    "exception": "raise KeyError",
    "_exit": "os._exit(0)",
    "killed": "os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_the_process_ends_its_sandboxes(end: str, box_options: dict[str, Any]) -> None:
    script = f"""
import os, sys, sandbox
options = dict(rootfs={str(box_options["rootfs"])!r}, policy="default")
process = sandbox.Popen({LONG!r}, **options)
box = sandbox.Sandbox(**options).start()
inside = box.popen({LONG!r})
print(process.pid, box.report()["pid"], inside.pid, flush=True)
{ENDS[end]}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 3, done.stderr
    until(lambda: all(map(gone, pids)))

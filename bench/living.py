"""Living sandboxes: what one costs while it idles, the list of many, a further command in one."""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.clock import Comparison, Entry, measure, spawn
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.registry import Folder
from sandbox.runtime.session import RunOptions, start_session
from sandbox.runtime.task import Keeping, Task

MANY = 200
LIST_MS = 100
MEMORY_RATIO = 0.75
EXEC_RATIO = 0.6


@contextlib.contextmanager
def _idle(root: Path, count: int) -> Iterator[list[Folder]]:
    policy = build_policy(load_policy("default"))
    options = RunOptions(keep=Keeping(detached=True, idle=True))
    folders = []
    try:
        for _ in range(count):
            folders.append(start_session(policy, Task(str(root), ()), options))
        yield folders
    finally:
        for folder in folders:
            with Keeper(folder) as kept:
                kept.kill()
                kept.wait(10)
            folder.remove()
            folder.close()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _anonymous_kib(pid: int) -> int:
    """What the process alone has, as far as one may see it of those that cannot be dumped."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["RssAnon"].split()[0])


def _whole_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["VmRSS"].split()[0])


def _bwrap_kib(root: Path) -> tuple[int, int] | None:
    """Private and resident memory of bwrap's two processes beside a command that sleeps."""
    path = shutil.which("bwrap")
    if not path:
        return None
    words = f"--unshare-all --bind {root} / --proc /proc --dev /dev sleep 60"
    running = subprocess.Popen([path, *words.split()])
    try:
        inner: list[int] = []
        end = time.monotonic() + 10
        while not inner or not _children(inner[0]):
            if time.monotonic() > end:
                raise SystemExit("bench: error: bwrap's sleeping command did not start")
            inner = _children(running.pid)
            time.sleep(0.05)
        pids = [running.pid, inner[0]]
        sleeper = _children(inner[0])[0]
        sizes = sum(map(_anonymous_kib, pids)), sum(map(_whole_kib, pids))
        os.kill(sleeper, 9)
        return sizes
    finally:
        running.wait(10)


def _memory_row(root: Path, folder: Folder) -> list[Comparison]:
    pids = [folder.description.pid, *_children(folder.description.pid)]
    ours = sum(map(_anonymous_kib, pids)), sum(map(_whole_kib, pids))
    theirs = _bwrap_kib(root)
    print(f"\nAn idle sandbox (launcher and init): private {ours[0]} KiB, resident {ours[1]} KiB")
    if not theirs:
        return []
    print(f"  bwrap (its two processes): private {theirs[0]} KiB, resident {theirs[1]} KiB")
    name = "private memory of an idle sandbox"
    return [Comparison(name, ours[0], "bwrap", theirs[0], "KiB", MEMORY_RATIO)]


def _list_row(sbx: str) -> Comparison:
    times = []
    for _ in range(20):
        began = time.perf_counter()
        subprocess.run([sbx, "ps"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    took_ms = statistics.median(times) * 1e3
    return Comparison(f"sbx ps of {MANY}", took_ms, "what is bearable", LIST_MS, "ms", 1.0)


def rows(root: Path, rounds: int) -> list[Comparison]:
    """Memory, a further command, a list of many; `root` has a shell and sleep."""
    sbx = str(Path(sys.executable).parent / "sbx")
    env = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="bench-living-") as name:
        os.environ["XDG_RUNTIME_DIR"] = env["XDG_RUNTIME_DIR"] = name
        with _idle(root, 1) as (folder,):
            found = _memory_row(root, folder)
            fresh = Entry("sbx run", spawn([sbx, "run", str(root), "true"], env))
            inside = Entry("sbx exec", spawn([sbx, "exec", folder.id, "true"], env))
            measure([fresh, inside], max(5, rounds // 4))
            times = [entry.median_s * 1e3 for entry in (inside, fresh)]
            found.append(Comparison("sbx exec", times[0], "sbx run", times[1], "ms", EXEC_RATIO))
        with _idle(root, MANY):
            found.append(_list_row(sbx))
        del os.environ["XDG_RUNTIME_DIR"]
    return found

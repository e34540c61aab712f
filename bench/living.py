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

from bench.clock import Entry, measure, spawn, table
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime.inspect import summary
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.registry import Folder, everyone
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


def _print_memory(root: Path, folder: Folder) -> None:
    pids = [folder.description.pid, *_children(folder.description.pid)]
    ours = sum(map(_anonymous_kib, pids)), sum(map(_whole_kib, pids))
    theirs = _bwrap_kib(root)
    print(f"\nAn idle sandbox (launcher and init): private {ours[0]} KiB, resident {ours[1]} KiB")
    if theirs:
        ratio = ours[0] / theirs[0]
        verdict = "met" if ratio <= MEMORY_RATIO else "MISSED"
        print(f"  bwrap (its two processes): private {theirs[0]} KiB, resident {theirs[1]} KiB")
        print(f"  ratio of private memory {ratio:.2f}, target <= {MEMORY_RATIO}: {verdict}")


def _print_lists(sbx: str) -> None:
    reading, whole = [], []
    for _ in range(20):
        began = time.perf_counter()
        for folder in everyone():
            summary(folder)
            folder.close()
        reading.append(time.perf_counter() - began)
        began = time.perf_counter()
        subprocess.run([sbx, "ps"], check=True, stdout=subprocess.DEVNULL)
        whole.append(time.perf_counter() - began)
    shown = [statistics.median(times) * 1e3 for times in (reading, whole)]
    verdict = "met" if shown[1] <= LIST_MS else "MISSED"
    print(f"\nListing {MANY} sandboxes: {shown[0]:.1f} ms of reading, `sbx ps` {shown[1]:.1f} ms")
    print(f"  target <= {LIST_MS} ms: {verdict}")


def main(root: Path, rounds: int) -> None:
    """Print the tables; `root` has a shell and sleep."""
    sbx = str(Path(sys.executable).parent / "sbx")
    env = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="bench-living-") as name:
        os.environ["XDG_RUNTIME_DIR"] = env["XDG_RUNTIME_DIR"] = name
        with _idle(root, 1) as (folder,):
            _print_memory(root, folder)
            entries = [
                Entry("sbx run", spawn([sbx, "run", str(root), "true"], env)),
                Entry("sbx exec", spawn([sbx, "exec", folder.id, "true"], env)),
            ]
            measure(entries, max(5, rounds // 4))
            title = "A further command in a living sandbox; ratios to a fresh run"
            table(title, entries, "sbx run", {"sbx exec": EXEC_RATIO})
        with _idle(root, MANY):
            _print_lists(sbx)
        del os.environ["XDG_RUNTIME_DIR"]

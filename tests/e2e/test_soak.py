"""Many runs, many at once, and many killed: nothing stays, and the caller does not grow.

SBX_SOAK multiplies everything; `make soak` sets it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import SbxError
from sandbox.host.probe import host_facts
from sandbox.linux.paths import state_dir
from sandbox.linux.workspace import runs_dir
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime import registry
from sandbox.runtime.control import stop
from sandbox.runtime.history import read_history
from sandbox.runtime.registry import Folder
from sandbox.runtime.session import RunOptions, run_session, start_session
from sandbox.runtime.task import Keeping, Task
from tests.conftest import Sbx
from tests.support.user import children

FACTOR = int(os.environ.get("SBX_SOAK", "1"))
SHORT_RUNS = 250 * FACTOR  # of each of two kinds
GROWTH_KIB = 1024
POLICY = build_policy(load_policy("default"))

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_env(tmp_path: Path, sbx: Sbx, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Folders of this test alone, for this process and those it starts; all are empty after it."""
    changed = {
        "XDG_RUNTIME_DIR": str(tmp_path),
        "XDG_CACHE_HOME": sbx.env["XDG_CACHE_HOME"],
        "XDG_CONFIG_HOME": sbx.env["XDG_CONFIG_HOME"],
    }
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    signal.alarm(600 * FACTOR)  # what `deadline` has set is for one
    host_facts()  # or each of many at once tries this host, which takes long when it is busy
    before = descriptors()
    yield {**sbx.env, **changed}
    assert descriptors() == before
    assert folders() == []


def start(rootfs: Path) -> Folder:
    options = RunOptions(keep=Keeping(detached=True, idle=True), forward_signals=False)
    return start_session(POLICY, Task(str(rootfs), ()), options)


def end(folder: Folder) -> None:
    """Kill what still lives of it; those of clients that were killed die by themselves."""
    stop([folder], 0)
    assert folder.remove()
    folder.close()


def anonymous_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["RssAnon"].split()[0])


def folders() -> list[str]:
    """What is left of sandboxes, their names, roots and control groups, after a clean-up."""
    base = Path(state_dir())
    for path in base.glob(".new-*"):  # who made them is dead: they need not get old first
        os.utime(path, (0, 0))
    registry.sweep()
    found = [path for path in base.glob("*") if path.name not in ("names", "host", "cgroups")]
    found += [*base.glob("names/*"), *base.glob("cgroups/*")]
    found += [path for path in Path(runs_dir()).glob("*") if path.name != ".gate"]
    return sorted(map(str, found))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def run_kept(rootfs: Path) -> None:
    out = bytearray()
    options = RunOptions(stdout=out, keep=Keeping(auto_remove=True), forward_signals=False)
    assert run_session(POLICY, Task(str(rootfs), ("id",)), options).exit_code == 0
    assert out.startswith(b"uid=")


def run_plainly(rootfs: Path) -> None:
    result = sandbox.run(["id"], rootfs=rootfs, policy="default", capture_output=True)
    assert result.returncode == 0
    assert result.stdout.startswith(b"uid=")


def test_short_runs_one_after_the_other(rootfs: Path) -> None:
    for run in (run_plainly, run_kept):
        for _ in range(50):
            run(rootfs)
        before, size, began = descriptors(), anonymous_kib(), time.monotonic()
        for _ in range(SHORT_RUNS):
            run(rootfs)
        grown, took_s = anonymous_kib() - size, time.monotonic() - began
        print(f"{run.__name__}: {SHORT_RUNS} runs in {took_s:.0f} s, {grown} KiB more")
        assert descriptors() == before
        assert grown < GROWTH_KIB


def test_two_hundred_at_once(rootfs: Path) -> None:
    def one(_: int) -> Folder:
        return start(rootfs)

    for _ in range(FACTOR):
        with ThreadPoolExecutor(20) as pool:
            boxes = list(pool.map(one, range(200)))
            assert len({box.id for box in boxes}) == 200
            assert {read_history(box).state for box in boxes} <= {"created", "running"}
            found = list(registry.everyone())
            assert {box.id for box in found} == {box.id for box in boxes}
            for box in found:
                box.close()
            list(pool.map(end, boxes))
        assert folders() == []


def test_a_storm_of_kills_of_keepers(rootfs: Path) -> None:
    """Launchers are killed while others start: each sandbox ends with its own, and no other."""
    for turn in range(6 * FACTOR):
        with ThreadPoolExecutor(8) as pool:
            starting = [pool.submit(start, rootfs) for _ in range(16)]
            time.sleep(0.002 * (turn % 50))
            for folder in registry.everyone():
                if folder.description.pid and folder.lives():
                    os.kill(folder.description.pid, signal.SIGKILL)
                folder.close()
        for future in starting:
            try:
                box = future.result()
            except SbxError:
                continue
            if box.lives():
                end(box)
            else:
                assert read_history(box).state == "dead"
                assert box.remove()
                box.close()


LONG = ["sh", "-c", "sleep 300 & (sleep 300 &); sleep 300"]
API = f"""
import sandbox, sys, time
box = sandbox.Sandbox(rootfs=sys.argv[1], policy="default").start()
inside = box.popen({LONG!r})
beside = sandbox.Popen({LONG!r}, rootfs=sys.argv[1], policy="default")
time.sleep(300)
"""


def test_a_storm_of_kills_of_clients(
    rootfs: Path, sbx: Sbx, own_env: dict[str, str], tmp_path: Path
) -> None:
    """Nothing runs on but what was to stay, and one that stays loses only what was entered."""
    chance = random.Random(4)  # noqa: S311 (moments, no secrets)
    box = start(rootfs)
    layer = tmp_path / "layer"
    run = [sbx.path, "run"]
    made = [*run, "--persist", str(layer), str(rootfs), "true"]
    assert subprocess.run(made, env=own_env, timeout=60, check=False).returncode == 0
    clients = [
        [*run, str(rootfs), *LONG],
        [*run, "--storage", "copy", str(rootfs), *LONG],
        [*run, "--persist", str(layer), str(rootfs), *LONG],
        [*run, "-d", str(rootfs), *LONG],
        [sbx.path, "exec", box.id, *LONG],
        [sys.executable, "-c", API, str(rootfs)],
    ]

    def kill(moment: tuple[int, float]) -> None:
        client, delay_s = moment
        null = subprocess.DEVNULL
        process = subprocess.Popen(
            clients[client], env=own_env, stdin=null, stdout=null, stderr=null, cwd="/"
        )
        time.sleep(delay_s)
        process.kill()
        process.wait()

    for _ in range(FACTOR):
        moments = [(n % len(clients), chance.uniform(0, 0.6)) for n in range(8 * len(clients))]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(kill, moments))
        assert box.lives()
        (init,) = children(box.description.pid)
        limit = time.monotonic() + 20
        while children(init) and time.monotonic() < limit:
            time.sleep(0.01)
        assert children(init) == []
        for folder in registry.everyone():
            if folder.id != box.id:
                end(folder)
            else:
                folder.close()
        done = subprocess.run([*run, str(rootfs), "true"], env=own_env, timeout=60, check=False)
        assert done.returncode == 0  # and it removes the copies of those that were killed
    end(box)
    limit = time.monotonic() + 20
    remove = [sbx.path, "layer", "rm", str(layer)]
    while subprocess.run(remove, env=own_env, check=False).returncode:  # its last user just dies
        assert time.monotonic() < limit
        time.sleep(0.1)

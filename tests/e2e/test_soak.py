"""Many runs, many at once, and many killed: nothing stays, and the caller does not grow.

SBX_SOAK multiplies everything; `make soak` sets it.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox.errors import SbxError
from sandbox.linux.paths import state_dir
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime import registry
from sandbox.runtime.history import read_history
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.registry import Folder
from sandbox.runtime.session import RunOptions, run_session, start_session
from sandbox.runtime.task import Keeping, Task

FACTOR = int(os.environ.get("SBX_SOAK", "1"))
POLICY = build_policy(load_policy("default"))

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    signal.alarm(600 * FACTOR)  # what `deadline` has set is for one


def start(rootfs: Path) -> Folder:
    options = RunOptions(keep=Keeping(detached=True, idle=True), forward_signals=False)
    return start_session(POLICY, Task(str(rootfs), ()), options)


def end(folder: Folder) -> None:
    with Keeper(folder) as kept:
        kept.kill()
        assert kept.wait(60)
    assert folder.remove()
    folder.close()


def anonymous_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["RssAnon"].split()[0])


def folders() -> list[str]:
    registry.sweep()
    names = os.listdir(state_dir())
    return [name for name in names if name not in ("names", "host")]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_short_runs_one_after_the_other(rootfs: Path) -> None:
    def run(count: int) -> None:
        for _ in range(count):
            out = bytearray()
            options = RunOptions(stdout=out, keep=Keeping(auto_remove=True), forward_signals=False)
            assert run_session(POLICY, Task(str(rootfs), ("id",)), options).exit_code == 0
            assert out

    run(50)
    before, size = descriptors(), anonymous_kib()
    run(100 * FACTOR)
    assert descriptors() == before
    assert anonymous_kib() - size < 2048
    assert folders() == []


def test_two_hundred_at_once(rootfs: Path) -> None:
    before = descriptors()
    for _ in range(FACTOR):
        with ThreadPoolExecutor(20) as pool:
            boxes = list(pool.map(lambda _: start(rootfs), range(200)))
            assert len({box.id for box in boxes}) == 200
            assert {read_history(box).state for box in boxes} <= {"created", "running"}
            found = list(registry.everyone())
            assert {box.id for box in found} == {box.id for box in boxes}
            for box in found:
                box.close()
            list(pool.map(end, boxes))
    assert descriptors() == before
    assert folders() == []


def test_storms_of_kills(rootfs: Path) -> None:
    """Launchers are killed while others start: each sandbox ends with its own, and no other."""
    before = descriptors()
    for turn in range(6 * FACTOR):
        with ThreadPoolExecutor(8) as pool:
            starting = [pool.submit(start, rootfs) for _ in range(16)]
            time.sleep(0.002 * turn)
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
    assert descriptors() == before
    assert folders() == []

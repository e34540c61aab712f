"""Whatever part of sbx is killed, whenever: the sandbox dies within a second, nothing is left."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support.user import Belongings, children, wait_until_gone

STEPS_MS = range(0, 201, 5)
GONE_WITHIN_S = 1.0
PARTS = {"python": (0,), "launcher": (1,), "init": (2,), "python and launcher": (0, 1)}


def kill_after(running: subprocess.Popen[bytes], delay_ms: int, parts: tuple[int, ...]) -> None:
    """Kill those of sbx, its launcher and the init; one that is not there yet is waited for."""
    time.sleep(delay_ms / 1000)
    chain = [running.pid]
    end = time.monotonic() + 20
    while len(chain) <= max(parts) and time.monotonic() < end and running.poll() is None:
        chain += children(chain[-1])[:1]
    for part in parts:
        os.kill(chain[part], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(("init", "steps"), [("--init", STEPS_MS), ("--no-init", STEPS_MS[::5])])
@pytest.mark.parametrize("part", list(PARTS))
def test_killed_at_any_time(
    sbx: Sbx, attack_rootfs: Path, part: str, init: str, steps: range
) -> None:
    """The payload is a tree of 20 that ignore signals and have left their session and parent."""
    sbx("run", attack_rootfs, "/probe", "--ids")  # the first run of all has other children too
    for delay_ms in steps:
        before = Belongings.look(sbx.cache)
        running = sbx.start("run", init, attack_rootfs, "/attack", "tree")
        kill_after(running, delay_ms, PARTS[part])
        running.communicate(timeout=30)
        left = wait_until_gone(before, sbx.cache, GONE_WITHIN_S)
        assert left == [], f"{part} killed after {delay_ms} ms"


@pytest.mark.slow
def test_killed_while_it_copies(sbx: Sbx, attack_rootfs: Path, tmp_path: Path) -> None:
    """The copy may stay, as nobody is there to remove it: the next command does, and says so."""
    root = tmp_path / "rootfs"
    shutil.copytree(attack_rootfs, root)
    for folder in range(100):
        (root / f"srv/{folder}").mkdir()
        for name in range(20):
            (root / f"srv/{folder}/{name}").touch()
    found = 0
    for delay_ms in range(60, 361, 60):
        before = Belongings.look(sbx.cache)
        running = sbx.start("run", "--storage", "copy", root, "/attack", "tree")
        kill_after(running, delay_ms, PARTS["python"])
        running.communicate(timeout=30)
        wait_until_gone(before, sbx.cache, GONE_WITHIN_S)
        left = Belongings.look(sbx.cache).new_since(before)
        assert [line for line in left if not line.startswith("folder ")] == []
        done = sbx("run", attack_rootfs, "/probe", "--ids")
        for line in left:
            assert f"removed {sbx.cache}/sbx/runs/{line.removeprefix('folder ')}" in done.stderr
        assert Belongings.look(sbx.cache).new_since(before) == []
        found += len(left)
    assert found > 0


@pytest.mark.parametrize("init", ["--init", "--no-init"])
def test_a_daemon_dies_with_its_command(sbx: Sbx, attack_rootfs: Path, init: str) -> None:
    """sbx returns when the command does, and its daemon is gone then."""
    before = Belongings.look(sbx.cache)
    began = time.monotonic()
    assert sbx("run", init, attack_rootfs, "/attack", "daemon", "7").returncode == 7
    assert time.monotonic() - began < 20  # the daemon would go on for ever
    assert wait_until_gone(before, sbx.cache, GONE_WITHIN_S) == []

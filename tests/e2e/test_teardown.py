"""Whatever part is killed, nothing is left: the folder's fixture looks for it."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support.user import children

TREE = "sleep 300 & (sleep 300 &) ; sh -c 'trap \"\" TERM INT HUP; sleep 300' & echo ready; wait"


def start_tree(sbx: Sbx, rootfs: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a sandbox with several processes, and wait until they run."""
    running = sbx.start("run", *options, rootfs, "sh", "-c", TREE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    return running


def finish(running: subprocess.Popen[bytes]) -> int:
    """Wait for the end with a deadline, and close the pipes."""
    try:
        return running.wait(30)
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT"])
def test_signals_to_sbx_reach_the_command(sbx: Sbx, rootfs: Path, name: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    running = sbx.start(
        "run", rootfs, "sh", "-c", f"trap 'exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    )
    assert running.stdout is not None
    running.stdout.readline()
    running.send_signal(number)
    assert finish(running) == 9


def test_sigkill_of_sbx(sbx: Sbx, rootfs: Path) -> None:
    running = start_tree(sbx, rootfs)
    running.kill()
    assert finish(running) == -signal.SIGKILL


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_sigkill_of_a_part(sbx: Sbx, rootfs: Path, depth: int) -> None:
    """Depth 1 is the launcher, 2 the init, 3 the command."""
    running = start_tree(sbx, rootfs)
    pid = running.pid
    for _ in range(depth):
        found = children(pid)
        assert found, "the tree is not as deep as expected"
        pid = found[0]
    os.kill(pid, signal.SIGKILL)
    assert finish(running) != 0


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 4, 8, 16, 30, 45, 60, 80, 100])
def test_sigkill_at_any_time_of_the_start(sbx: Sbx, rootfs: Path, delay_ms: int) -> None:
    running = sbx.start("run", rootfs, "sleep", "300")
    end = time.monotonic() + delay_ms / 1000
    while time.monotonic() < end:
        pass
    running.kill()
    assert finish(running) == -signal.SIGKILL


def test_sigkill_with_a_copy(sbx: Sbx, rootfs: Path) -> None:
    """The folder of a copy outlives SIGKILL until the next run, which removes it and says so."""
    running = start_tree(sbx, rootfs, "--storage", "copy")
    running.kill()
    finish(running)
    done = sbx("run", rootfs, "true")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def many_files(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system that takes a while to copy."""
    root = tmp_path_factory.mktemp("many") / "rootfs"
    shutil.copytree(rootfs, root, symlinks=True)
    for folder in range(200):
        (root / f"srv/{folder}").mkdir(parents=True)
        for name in range(40):
            (root / f"srv/{folder}/{name}").touch()
    return root


@pytest.mark.parametrize("delay_ms", [0, 20, 60])
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT"])
def test_a_signal_during_the_copy_removes_it(
    sbx: Sbx, many_files: Path, name: str, delay_ms: int
) -> None:
    """The command has not started, so sbx ends itself, when nothing is left any more."""
    number = signal.Signals[f"SIG{name}"]
    runs = sbx.cache / "sbx/runs"
    before = set(runs.iterdir()) if runs.exists() else set()
    running = sbx.start("run", "--storage", "copy", many_files, "sleep", "300")
    end = time.monotonic() + 30
    while not (roots := [p / "root" for p in set(runs.glob("[0-9]*")) - before]):
        assert time.monotonic() < end
    while not roots[0].exists():
        assert time.monotonic() < end
    time.sleep(delay_ms / 1000)
    running.send_signal(number)
    _, told = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert f"SIG{name} came before the command was started" in told.decode()
    assert set(runs.glob("[0-9]*")) - before == set()


def test_closed_output_ends_the_run(sbx: Sbx, rootfs: Path) -> None:
    running = sbx.start("run", rootfs, "sh", "-c", "while echo y; do :; done")
    assert running.stdout is not None
    running.stdout.read(10)
    running.stdout.close()
    assert running.wait(30) != 0
    assert running.stderr is not None
    running.stderr.close()
    assert running.stdin is not None
    running.stdin.close()


def test_daemons_end_with_the_command(sbx: Sbx, rootfs: Path) -> None:
    done = sbx(
        "run",
        rootfs,
        "sh",
        "-c",
        "(sleep 300 >/dev/null 2>&1 &); (sleep 300 &) >/dev/null 2>&1; exit 0",
    )
    assert done.returncode == 0

"""Folders of runs: there while the run lives, gone afterwards, however it ended."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import SbxError
from sandbox.linux.workspace import make_workspace, reap_leftovers, runs_dir

ROOT = Path(sandbox.__file__).parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def remove(path: str) -> None:
    shutil.rmtree(path)


def leave_behind() -> str:
    """The folder of a process that was killed."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from sandbox.linux.workspace import make_workspace
print(make_workspace().path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.strip()


def test_a_folder_of_our_own_that_goes() -> None:
    workspace = make_workspace()
    assert stat.S_IMODE(os.stat(workspace.path).st_mode) == 0o700
    assert os.path.dirname(workspace.path) == runs_dir()
    workspace.close(remove)
    assert not os.path.exists(workspace.path)


def test_the_living_are_left_alone_and_the_dead_removed() -> None:
    living = make_workspace()
    dead = leave_behind()
    assert os.path.isdir(dead)
    assert reap_leftovers(remove) == [dead]
    assert not os.path.exists(dead)
    assert os.path.isdir(living.path)
    assert reap_leftovers(remove) == []
    living.close(remove)


def test_what_cannot_be_removed_is_tried_again() -> None:
    dead = leave_behind()

    def fail(path: str) -> None:
        raise SbxError(f"cannot remove {path}")

    assert reap_leftovers(fail) == []
    assert reap_leftovers(remove) == [dead]


def test_no_run_ever_is_nothing_to_do(cache: Path) -> None:
    assert reap_leftovers(remove) == []
    assert list(cache.iterdir()) == []


def test_a_folder_of_somebody_else_is_refused(cache: Path) -> None:
    (cache / "elsewhere").mkdir()
    (cache / "sbx").mkdir(mode=0o700)
    (cache / "sbx/runs").symlink_to(cache / "elsewhere")
    with pytest.raises(SbxError, match="cannot trust"):
        make_workspace()


def test_a_folder_that_is_being_removed_has_an_owner() -> None:
    workspace = make_workspace()
    os.mkdir(f"{workspace.path}/root")

    def half(path: str) -> None:
        for name in os.listdir(path):
            if name != "root":
                os.unlink(f"{path}/{name}")
        assert reap_leftovers(remove) == []
        remove(path)

    workspace.close(half)
    assert not os.path.exists(workspace.path)

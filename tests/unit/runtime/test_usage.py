"""What a sandbox uses, as its control group counts it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import StateError
from sandbox.linux.paths import native
from sandbox.runtime import control
from sandbox.runtime import usage as usage_module
from sandbox.runtime.history import read_history
from sandbox.runtime.inspect import details
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.registry import Folder
from sandbox.runtime.usage import processes, usage
from tests.support.living import living

FILES = {
    "cgroup.controllers": "cpu io memory pids",
    "cgroup.events": "populated 1\nfrozen 0\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=1 wbytes=2 rios=0 wios=0\n",
    "memory.current": "5000000\n",
    "memory.max": "8000000\n",
    "memory.peak": "6000000\n",
    "memory.stat": "anon 4000000\ninactive_file 1000000\n",
    "pids.current": "7\n",
    "pids.max": "max\n",
}


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A folder with the files of a control group."""
    path = tmp_path / "group"
    path.mkdir()
    for name, text in FILES.items():
        (path / name).write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path, group: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """A sandbox that lives and says that it is in that group."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "x").write_bytes(Path(native("sbx-idmap")).read_bytes())
    with living(root) as found:
        inode = os.stat(group).st_ino
        found.describe(found.description.replace(cgroup=("root", str(group), inode)))
        yield found


def test_a_control_group_is_believed(folder: Folder, group: Path) -> None:
    found = usage(folder)
    assert found is not None
    assert (found.memory_bytes, found.memory_kind) == (4000000, "cgroup")
    assert (found.memory_limit_bytes, found.pids_limit) == (8000000, None)
    assert (found.cpu_s, found.pids) == (2.5, 7)
    assert (found.read_bytes, found.written_bytes) == (11, 22)
    shown = details(folder)["cgroup"]
    assert isinstance(shown, dict)
    assert (shown["driver"], shown["path"]) == ("root", str(group))
    assert shown["used"]["memory_peak_bytes"] == 6000000


def test_what_it_does_not_count_comes_from_proc(folder: Folder, group: Path) -> None:
    for name in FILES:
        (group / name).unlink()
    found = usage(folder)
    assert found is not None
    assert found.memory_kind in ("pss", "rss")
    assert 0 < found.pids < 7
    assert found.memory_limit_bytes is None


def test_another_group_of_that_name_is_not_believed(folder: Folder, group: Path) -> None:
    folder.describe(folder.description.replace(cgroup=("root", str(group), 1)))
    found = usage(folder)
    assert found is not None
    assert found.memory_kind in ("pss", "rss")
    shown = details(folder)["cgroup"]
    assert isinstance(shown, dict)
    assert shown["used"] is None


def test_a_pause_is_over_when_all_have_stopped(
    folder: Folder, group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.services.cgroup.group._PATIENCE_S", 0.05)
    with pytest.raises(StateError, match="have not stopped yet"):
        control.pause(folder)
    control.unpause(folder)
    (group / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    control.pause(folder)
    control.unpause(folder)


def test_a_process_that_goes_meanwhile_is_not_shown(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [one.inner_pid for one in processes(folder)][:1] == [1]
    read = usage_module._read

    def gone(path: str, *most: int) -> bytes | None:
        return None if path.endswith("/status") else read(path, *most)

    monkeypatch.setattr(usage_module, "_read", gone)
    assert processes(folder) == []


def test_an_order_is_written_down_before_it_is_answered(folder: Folder) -> None:
    os.sched_setaffinity(0, one := {min(usable := os.sched_getaffinity(0))})
    try:
        os.sched_setaffinity(folder.description.pid, one)
        os.setpriority(os.PRIO_PROCESS, folder.description.pid, 19)
        with Keeper(folder) as keeper:
            for _ in range(300):
                keeper.freeze()
                assert read_history(folder).state == "paused"
                keeper.thaw()
                assert read_history(folder).state == "running"
    finally:
        os.sched_setaffinity(0, usable)

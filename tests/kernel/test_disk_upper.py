"""Where overlayfs cannot take changes in memory, they go to a disk and are gone with the run.

Before Linux 6.6 that is found by trying. On later kernels the facts that are remembered say so.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sandbox.errors import StateError
from sandbox.host import probe
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime.history import read_history
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.registry import Folder
from sandbox.runtime.session import RunOptions, start_session
from sandbox.runtime.task import Keeping, Task
from tests.conftest import Sbx

REASON = "overlay: make a removed lower folder again: input/output error"
LOST = "the size limit of the writable layer"
REPLACE = "rm -rf /var && mkdir /var && echo new > /var/file && ls -A /var"
CHANGE = f"{REPLACE} && mkdir -p /a/b && echo 1 > /a/b/c && chown -R 33:33 /a && chmod -R 0700 /a"


def forget_memory() -> None:
    """Remember that memory does not do, for those who have this environment."""
    facts = probe.host_facts(refresh=True)
    assert facts.upper_disk_error == ""
    if facts.upper_memory_error:
        assert facts.kernel < (6, 6)
        return
    key = probe.cache_key()
    found = probe._load(key)
    assert found
    probe._store(key, (*found[:-2], REASON, ""))
    assert probe.host_facts().upper_memory_error == REASON


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder on a disk: where tests have theirs, or what the environment names."""
    given = os.environ.get("SBX_TEST_DISK")
    if not given:
        return tmp_path
    folder = Path(given, tmp_path.name)
    folder.mkdir()
    return folder


@pytest.fixture
def old(sbx: Sbx, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sbx]:
    """An sbx whose cache is on a disk, and which finds that memory does not do."""
    own = {"XDG_CACHE_HOME": str(disk / "cache"), "XDG_RUNTIME_DIR": str(tmp_path / "state")}
    (tmp_path / "state").mkdir(mode=0o700)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    forget_memory()
    yield Sbx(sbx.path, disk, {**sbx.env, **own})
    assert runs(disk) == []


def runs(disk: Path) -> list[str]:
    return [path.name for path in Path(disk, "cache/sbx/runs").glob("*-*")]


def tree(root: Path) -> dict[str, tuple[int, int]]:
    found = {str(path): path.lstat() for path in root.rglob("*")}
    return {path: (entry.st_mtime_ns, entry.st_mode) for path, entry in found.items()}


def run(old: Sbx, *words: object) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    report = old.home / "report"
    done = old("run", "--report", report, *words)
    return done, json.loads(report.read_text())


def test_everything_can_be_changed_and_nothing_stays(old: Sbx, rootfs: Path) -> None:
    before = tree(rootfs)
    done, report = run(old, "-u", "0", rootfs, "sh", "-c", CHANGE)
    assert (done.returncode, done.stdout) == (0, "file\n"), done.stderr
    assert report["storage"] == "overlay"
    assert "on disk only" in str(report["storage_reason"])
    assert tree(rootfs) == before
    assert runs(old.home) == []


def test_what_is_lost_is_said_once(old: Sbx, rootfs: Path) -> None:
    done, report = run(old, rootfs, "true")
    (line,) = (line for line in done.stderr.splitlines() if "input/output error" in line)
    assert done.stderr.count(LOST) == line.count(LOST) == 1
    assert "preparing" not in done.stderr
    (lost,) = (entry for entry in report["degradations"] if entry["lost"] == LOST)  # type: ignore[attr-defined]
    assert lost["layer"] == "overlay"


def test_a_root_that_never_changes_needs_no_disk(old: Sbx, rootfs: Path) -> None:
    done, report = run(old, "--read-only", rootfs, "sh", "-c", "test -d /var && ! touch /var/x")
    assert done.returncode == 0, done.stderr
    assert (report["storage"], report["storage_reason"]) == ("overlay", "")
    assert LOST not in done.stderr


def test_what_is_demanded_is_not_given_up(old: Sbx, rootfs: Path) -> None:
    policy = old.home / "demanding.toml"
    policy.write_text('extends = "default"\n[on_missing]\noverlay = "refuse"\n')
    done, _ = run(old, "--policy", policy, rootfs, "true")
    assert done.returncode == 125
    assert "input/output error" in done.stderr


def test_explain_tells_it_and_makes_nothing(old: Sbx, rootfs: Path) -> None:
    done = old("explain", rootfs, "true")
    assert f"changes discarded, until then in {old.home}/cache/sbx/runs" in done.stdout
    assert f"lost: {LOST} (overlay): " in done.stdout
    assert "storage: overlay: " in done.stdout
    assert runs(old.home) == []


def test_changes_are_kept_on_a_disk(old: Sbx, rootfs: Path) -> None:
    keep = old.home / "keep"
    for script in (REPLACE, "ls -A /var"):
        done, report = run(old, "-u", "0", "--persist", keep, rootfs, "sh", "-c", script)
        assert (done.returncode, done.stdout) == (0, "file\n")
        assert LOST not in done.stderr
        assert (report["storage"], report["storage_reason"]) == ("overlay", "")


def test_a_copy_has_no_limit_either(old: Sbx, rootfs: Path) -> None:
    done, report = run(old, "--storage", "copy", rootfs, "true")
    assert (done.returncode, report["storage"]) == (0, "copy")
    assert done.stderr.count(LOST) == 1


def test_what_a_killed_run_leaves_is_removed_by_the_next(old: Sbx, rootfs: Path) -> None:
    script = f"{CHANGE}; echo ready; sleep 300"
    running = old.start("run", "-u", "0", rootfs, "sh", "-c", script)
    assert running.stdout
    assert running.stdout.readline() == b"file\n"
    assert running.stdout.readline() == b"ready\n"
    (left,) = runs(old.home)
    running.kill()
    running.communicate(timeout=30)
    assert runs(old.home) == [left]
    end = time.monotonic() + 30
    while runs(old.home) and time.monotonic() < end:
        assert old("run", rootfs, "true").returncode == 0


@contextmanager
def detached(rootfs: Path, script: str, restarts: int = 0) -> Iterator[Folder]:
    """A sandbox in the background, from its start to its end."""
    user = Layer("--user", {"identity": {"user": 0}}, {})
    options = RunOptions(keep=Keeping(detached=True, restarts=restarts))
    policy = build_policy([*load_policy("default"), user])
    folder = start_session(policy, Task(str(rootfs), ("sh", "-c", script)), options)
    try:
        yield folder
    finally:
        with suppress(StateError), Keeper(folder) as kept:
            kept.kill()
            assert kept.wait(10)
        assert folder.remove()
        folder.close()


def test_a_detached_sandbox_has_its_folder_as_long_as_it_lives(old: Sbx, rootfs: Path) -> None:
    with detached(rootfs, f"{CHANGE} && sleep 300") as folder:
        assert folder.description.storage == "overlay"
        assert "on disk only" in folder.description.storage_reason
        (left,) = runs(old.home)
        assert old("run", rootfs, "true").returncode == 0
        assert runs(old.home) == [left]
    done = old("run", rootfs, "true")
    assert f"{left}: a run that was killed had left it behind" in done.stderr


def test_each_start_begins_afresh(old: Sbx, rootfs: Path) -> None:
    """As in memory: what a start has changed, the next one does not see."""
    script = "test -e /mark && echo stale || echo fresh; : > /mark; exit 1"
    with detached(rootfs, script, restarts=2) as folder:
        end = time.monotonic() + 30
        while folder.lives() and time.monotonic() < end:
            time.sleep(0.05)
        log = Path(folder.path, "log").read_bytes()
        assert b"fresh" in log
        assert b"stale" not in log
        assert read_history(folder).starts == 3
    assert old("run", rootfs, "true").returncode == 0

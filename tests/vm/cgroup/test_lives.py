"""The life of a control group: where it is, who is in it, what stops it, and that none is left."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sandbox
from sandbox.runtime import registry
from sandbox.runtime.keeper import Keeper
from tests.conftest import Sbx
from tests.support.user import children
from tests.vm.box import Box
from tests.vm.cgroup.conftest import USER, groups, reap

COUNT = "i=0; while :; do i=$((i+1)); done"


def wait_for(condition: object, deadline_s: float = 30) -> None:
    end = time.monotonic() + deadline_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_nothing_of_it_shows_inside(box: Box) -> None:
    script = """cat /proc/self/cgroup; grep -c cgroup2 /proc/self/mountinfo
        mkdir -p /sys/fs/cgroup/x && echo made; ls -l /proc/self/fd /proc/1/fd"""
    report = box.run("--", "sh", "-c", script)
    lines = report["shown"].splitlines()
    assert lines[:2] == ["0::/", "0"]
    assert "made" not in lines
    assert not any("cgroup" in line for line in lines[2:] if "->" in line)


def detached(box: Box, *words: object) -> str:
    done = box.sbx("run", "-q", "-d", "--read-only", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def folder_of(box: Box, identity: str, monkeypatch: pytest.MonkeyPatch) -> registry.Folder:
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, box.sbx.env[name])
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return registry.find(identity)


def usage(path: str) -> int:
    return int(Path(path, "cpu.stat").read_text().split()[1])


def test_freeze_and_thaw(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = detached(box, box.rootfs, "sh", "-c", COUNT)
    folder = folder_of(box, identity, monkeypatch)
    driver, path, inode = folder.description.cgroup
    assert driver == "delegated"
    assert os.stat(path).st_ino == inode
    with Keeper(folder) as keeper:
        keeper.freeze()
        wait_for(lambda: "frozen 1" in Path(path, "cgroup.events").read_text())
        before = usage(path)
        time.sleep(1)
        assert usage(path) == before
        keeper.thaw()
        wait_for(lambda: usage(path) > before + 100_000)
        keeper.freeze()
        keeper.kill()  # reaches the frozen too
        assert keeper.wait(30)
    folder.close()
    wait_for(lambda: not Path(path).exists())  # the launcher removes it, nobody else is there


def test_the_figures_of_a_detached_sandbox_stay(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = detached(box, "-m", "64M", box.rootfs, "sh", "-c", "tail /dev/zero; exit 4")
    folder = folder_of(box, identity, monkeypatch)
    wait_for(lambda: not folder.lives())
    assert b"oom_kill 1" in folder.read("account")
    folder.close()


def test_who_joins_is_in_the_group(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = detached(box, "-m", "64M", box.rootfs, "sleep", "100")
    folder = folder_of(box, identity, monkeypatch)
    path = Path(folder.description.cgroup[1])
    done = box.sbx("exec", identity, "cat", "/proc/self/cgroup")
    assert done.stdout == "0::/\n", done.stderr
    assert box.sbx("exec", identity, "tail", "/dev/zero").returncode == 137
    assert "oom_kill 1" in (path / "memory.events").read_text()
    with Keeper(folder) as keeper:
        keeper.kill()
        keeper.wait(30)
    folder.close()
    wait_for(lambda: not path.exists())


STUBBORN = """trap '' TERM INT HUP QUIT USR1
    (trap '' TERM INT HUP; while :; do sleep 1; done) &
    echo ready; while :; do sleep 1; done"""


@pytest.mark.usefixtures("leaves_nothing")
def test_a_tree_that_ignores_signals(box: Box) -> None:
    report = box.run("--timeout", "3s", "--", "sh", "-c", STUBBORN)
    assert (report["reason"], report["returncode"]) == ("timeout", 124)
    assert groups() == set()


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("who", ["sbx", "launcher"])
def test_killed_parts_leave_nothing_for_long(box: Box, who: str) -> None:
    process = box.sbx.start(*box.words("--", "sh", "-c", STUBBORN))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (group,) = groups()
    (launcher,) = children(process.pid)
    os.kill(process.pid if who == "sbx" else launcher, signal.SIGKILL)
    process.communicate(timeout=60)
    shown = reap(box)
    if who == "sbx":
        assert f"removed {USER / group}" in shown


def join(group: str) -> subprocess.Popen[bytes]:
    """A process that is in the group and not in the sandbox's pid namespace."""
    stray = subprocess.Popen(["sleep", "1000"])
    (USER / group / "cgroup.procs").write_text(str(stray.pid))
    return stray


def test_a_kill_is_the_whole_groups(box: Box) -> None:
    """Who controls it is killed, and nobody comes to reap: the launcher alone does it."""
    process = box.sbx.start(*box.words("--", "sh", "-c", STUBBORN))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (group,) = groups()
    stray = join(group)
    process.kill()
    process.communicate(timeout=60)
    assert stray.wait(30) == -signal.SIGKILL
    wait_for(lambda: "populated 0" in (USER / group / "cgroup.events").read_text())
    reap(box)


def test_the_end_of_a_detached_sandbox_is_the_whole_groups(box: Box) -> None:
    detached(box, "--timeout", "4s", box.rootfs, "sh", "-c", STUBBORN)
    (group,) = groups()
    stray = join(group)
    assert stray.wait(60) == -signal.SIGKILL
    wait_for(lambda: groups() == set())


@pytest.mark.usefixtures("leaves_nothing")
def test_kills_at_any_time_of_the_start(box: Box) -> None:
    for tenths in range(0, 14, 2):
        process = box.sbx.start(*box.words("--", "sh", "-c", STUBBORN))
        time.sleep(tenths / 10)
        process.kill()
        process.communicate(timeout=60)
    reap(box)
    box.run("--", "true")
    assert groups() == set()


def test_without_clone3_the_child_moves_itself(box: Box, tmp_path: Path) -> None:
    """As in a container whose filter does not know that call. The filter takes set-user-ID
    programs' rights away (seccomp(2)): one id, which needs none of them."""
    policy = tmp_path / "single.toml"
    policy.write_text('extends = "default"\n[identity]\nmap = "single"\n')
    script = "cat /proc/self/cgroup; tail /dev/zero"
    words = box.words("--policy", policy, "-m", "64M", "--", "sh", "-c", script)
    refuse = [sys.executable, "-m", "tests.support.refuse", "ENOSYS", "clone3", "--", box.sbx.path]
    done = subprocess.run(
        [*refuse, *map(str, words)], env=box.sbx.env, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.stdout == "0::/\n", done.stderr
    assert done.returncode == 137
    report = box.report()
    assert (report["reason"], report["oom_kills"]) == ("oom", 1)
    assert report["memory_peak_bytes"] >= 56 << 20
    assert groups() == set()


def test_others_groups_stay(box: Box) -> None:
    stranger = USER / "sbx-0123456789ab"
    stranger.mkdir()
    box.run("--", "true")
    assert stranger.exists()
    stranger.rmdir()


@pytest.mark.slow
def test_200_in_sequence(rootfs: Path, tmp_path: Path) -> None:
    policy = tmp_path / "own.toml"
    policy.write_text('extends = "default"\n[filesystem]\nread_only = true\n')
    for number in range(200):
        done = sandbox.run(["sh", "-c", f"exit {number % 7}"], rootfs=rootfs, policy=policy)
        assert done.returncode == number % 7
        assert done.report.cgroup is not None
    assert groups() == set()


@pytest.mark.slow
def test_20_at_once(box: Box) -> None:
    def one(number: int) -> int:
        words = ("run", "-q", "--read-only", "-m", "64M", box.rootfs)
        return box.sbx(*words, "sh", "-c", f"exit {number}", timeout=300).returncode

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == list(range(20))
    assert groups() == set()


def inside(
    folder: Path, sbx: Sbx, *words: object, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run sbx from a process in that folder."""
    script = f'echo $$ >{folder}/cgroup.procs; {before} exec "$@"'
    return subprocess.run(
        ["sh", "-c", script, "sh", sbx.path, *map(str, words)],
        env=sbx.env, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_alone_in_a_delegated_unit(box: Box, own_scope: Path) -> None:
    words = box.words("-m", "64M", "--", "tail", "/dev/zero")
    done = inside(own_scope, box.sbx, *words)
    assert done.returncode == 137, done.stderr
    assert box.report()["reason"] == "oom"
    box.run("--", "true")
    assert groups(own_scope) == set()  # the leaf that sbx moved into is gone as well


def test_others_in_a_delegated_unit(box: Box, own_scope: Path) -> None:
    words = ("run", "--read-only", "-m", "64M", box.rootfs, "true")
    done = inside(own_scope, box.sbx, *words, before="sleep 30 >/dev/null 2>&1 &")
    assert done.returncode == 0
    assert "without limits of the whole sandbox: 64M of memory" in done.stderr
    assert f"{own_scope} holds other processes" in done.stderr
    for pid in (own_scope / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: not (own_scope / "cgroup.procs").read_text())

"""Floods of everything that can be had: bounded, and meanwhile others work."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support.user import Belongings, wait_until_gone

GONE_WITHIN_S = 2.0
NPROC = 256
OWN_KIB = 100 << 10
SMALL = """
extends = "strict"
filesystem.shm = "64M"
filesystem.tmpfs = [
    { target = "/tmp", size = "64M", inodes = 4096, mode = 0o1777, noexec = true },
    { target = "/run", size = "64M", inodes = 4096, mode = 0o755, noexec = true },
]
rlimits.data = "96M"
"""
# Each attack, its number, and how much of it may be had at most (files are counted in MiB).
FLOODS = [
    ("forks", 0, NPROC),
    ("undead", 0, NPROC),
    ("memory", 512, 96),
    ("descriptors", 0, 1024),
    ("terminals", 0, 256),
    ("inodes", 0, 4096),
    ("disk", 0, 192),
]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """strict, with sizes that a test may fill."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def kib(path: str, name: str) -> int:
    """One line of /proc/PID/status or /proc/meminfo, in KiB; 0 when it is not there."""
    lines = Path(path).read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def own_peak_kib(running: subprocess.Popen[bytes]) -> int:
    """What sbx itself (Python) took at most so far; 0 once it is dead."""
    return kib(f"/proc/{running.pid}/status", "VmHWM")


@contextmanager
def started(sbx: Sbx, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """A run that is killed at the end, whatever became of it."""
    running = sbx.start("run", *words)
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=30)


def first_number(running: subprocess.Popen[bytes]) -> int:
    """What an attack says that it has got."""
    assert running.stdout
    return int(running.stdout.readline().split()[0])


@pytest.mark.parametrize(("attack", "number", "most"), FLOODS)
def test_a_flood_is_bounded_and_others_work_meanwhile(
    sbx: Sbx, attack_rootfs: Path, small: Path, attack: str, number: int, most: int
) -> None:
    words = ("--policy", small, attack_rootfs, "/attack", attack, number, "hold")
    with started(sbx, *words) as running:
        assert 1 <= first_number(running) <= most
        second = sbx("run", "--policy", "strict", attack_rootfs, "/probe", "--ids")
        assert second.returncode == 0, second.stderr
        assert subprocess.run(["true"], check=False).returncode == 0
        assert 0 < own_peak_kib(running) < OWN_KIB


def own_tasks() -> int:
    """How many processes and threads this user has."""
    found = 0
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if path.stat().st_uid == os.getuid():
                found += len(os.listdir(path / "task"))
    return found


def test_a_fork_bomb_leaves_the_user_processes(sbx: Sbx, attack_rootfs: Path) -> None:
    """Also where the user may have fewer than the policy lets the sandbox have."""
    low = ("prlimit", f"--nproc={own_tasks() + 400}")
    words = ("run", "-d", "--name", "bomb", attack_rootfs, "/attack", "forks", "0", "hold")
    argv = [*low, sbx.path, *map(str, words)]
    done = subprocess.run(argv, env=sbx.env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    try:
        end = time.monotonic() + 30
        while not (made := sbx("logs", "bomb").stdout) and time.monotonic() < end:
            time.sleep(0.05)
        assert 100 < int(made) < 400
        script = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"
        done = subprocess.run(
            [*low, "sh", "-c", script], capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
    finally:
        sbx("rm", "-f", "bomb")


def test_descriptors_in_flight_leave_the_user_some(
    sbx: Sbx, attack_rootfs: Path, tmp_path: Path
) -> None:
    """What one sandbox has in flight counts for its user, so for who starts another one."""
    limit = 512
    shell = ("sh", "-c", 'ulimit -Sn 512; exec "$@"', "sh", sbx.path)

    def low(*words: object) -> subprocess.CompletedProcess[str]:
        argv = [*shell, *map(str, words)]
        return subprocess.run(
            argv, env=sbx.env, capture_output=True, text=True, timeout=60, check=False
        )

    name = "flight"
    words = (
        "--policy",
        "strict",
        "--ulimit",
        f"nofile={limit}",
        attack_rootfs,
        "/attack",
        "flight",
        0,
    )
    started = sbx("run", "-d", "--name", name, *words, "hold")
    assert started.returncode == 0, started.stderr
    try:
        end = time.monotonic() + 30
        while not (made := sbx("logs", name).stdout) and time.monotonic() < end:
            time.sleep(0.05)
        assert int(made) > limit - 100
        for more in (), ("--network", "user"), ("-t",):
            done = low("run", *more, "--policy", "strict", attack_rootfs, "/probe", "--ids")
            assert done.returncode == 0, done.stderr
        for command in ("exec", name, "/probe", "--ids"), ("cp", f"{name}:/probe", tmp_path / "p"):
            done = low(*command)
            assert done.returncode == 0, done.stderr
    finally:
        sbx("rm", "-f", name)


def test_two_floods_at_once_are_counted_apart(sbx: Sbx, attack_rootfs: Path, small: Path) -> None:
    """RLIMIT_NPROC counts in each sandbox's own user namespace."""
    words = ("--policy", small, attack_rootfs, "/attack", "forks", 0, "hold")
    with started(sbx, *words) as one, started(sbx, *words) as other:
        assert min(first_number(one), first_number(other)) > NPROC // 2


def test_the_process_limit_counts_all_users_together(sbx: Sbx, attack_rootfs: Path) -> None:
    words = ("--user", "0", "--ulimit", "nproc=60", attack_rootfs, "/attack", "users", "5")
    done = sbx("run", *words)
    assert done.returncode == 0, done.stderr
    assert 10 <= int(done.stdout) <= 60


def test_memory_of_a_flooded_file_system_comes_back(
    sbx: Sbx, attack_rootfs: Path, small: Path
) -> None:
    meminfo = "/proc/meminfo"
    before = kib(meminfo, "Shmem")
    with started(sbx, "--policy", small, attack_rootfs, "/attack", "disk", 0, "hold") as running:
        assert first_number(running) > 128
    end = time.monotonic() + 30  # others use memory too
    while kib(meminfo, "Shmem") > before + (96 << 10) and time.monotonic() < end:
        time.sleep(0.1)
    assert kib(meminfo, "Shmem") <= before + (96 << 10)


def test_a_flood_that_ends_by_itself_is_reported(
    sbx: Sbx, attack_rootfs: Path, small: Path, tmp_path: Path
) -> None:
    words = ("--policy", small, "--report", tmp_path / "r", attack_rootfs, "/attack", "disk")
    done = sbx("run", *words)
    report = json.loads((tmp_path / "r").read_text())
    assert (done.returncode, report["reason"], report["code"]) == (0, "disk-full", 0)


def test_zombies_are_reaped(sbx: Sbx, attack_rootfs: Path) -> None:
    words = ("--policy", "strict", attack_rootfs, "/attack", "zombies", str(4 * NPROC))
    done = sbx("run", *words)
    assert (done.returncode, done.stdout) == (0, "")


# ---- payloads that do not want to end -----------------------------------------------------------


@pytest.mark.parametrize("init", ["--init", "--no-init"])
@pytest.mark.parametrize("attack", ["tree", "stop", "traced", "vfork"])
def test_the_stubborn_meet_their_time_limit(
    sbx: Sbx, attack_rootfs: Path, tmp_path: Path, attack: str, init: str
) -> None:
    """Signals ignored, own sessions, stopped, in a ptrace stop, in vfork."""
    before = Belongings.look(sbx.cache)
    words = ("--timeout", "0.5", init, "--report", tmp_path / "r", attack_rootfs, "/attack", attack)
    done = sbx("run", *words, timeout=30)
    assert (done.returncode, done.stdout) == (124, "ready\n")
    assert json.loads((tmp_path / "r").read_text())["reason"] == "timeout"
    assert wait_until_gone(before, sbx.cache, GONE_WITHIN_S) == []


# ---- output -------------------------------------------------------------------------------------


def test_output_flood_without_a_reader(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    """A full pipe that nobody reads slows the command down until its time is up."""
    words = ("--timeout", "1", "--report", tmp_path / "r", rootfs, "cat", "/dev/zero")
    with started(sbx, *words) as running:
        peak, end = 0, time.monotonic() + 30
        while running.poll() is None and time.monotonic() < end:
            peak = max(peak, own_peak_kib(running))
            time.sleep(0.05)
        assert 0 < peak < OWN_KIB
        assert running.returncode == 124
    told = json.loads((tmp_path / "r").read_text())
    assert told["reason"] == "timeout"
    assert told["output_bytes"] < 1 << 20


def test_output_flood_with_a_reader(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    """Beyond the limit it is read, counted and dropped; the report says so."""
    words = ("--policy", "strict", "--report", tmp_path / "r", rootfs)
    with started(sbx, *words, "head", "-c", "64000000", "/dev/zero") as running:
        assert running.stdout
        count = 0
        while data := running.stdout.read(1 << 20):
            count += len(data)
            assert own_peak_kib(running) < OWN_KIB
        assert running.wait(30) == 0
    told = json.loads((tmp_path / "r").read_text())
    assert count == told["output_bytes"] == 16 << 20
    assert told["output_bytes"] + told["output_dropped_bytes"] == 64_000_000
    assert (told["reason"], told["code"]) == ("output-limit", 0)


def test_output_for_a_slow_reader_is_whole(sbx: Sbx, rootfs: Path) -> None:
    with started(sbx, rootfs, "seq", "100000") as running:
        assert running.stdout
        found = b""
        while data := os.read(running.stdout.fileno(), 32768):
            found += data
            time.sleep(0.005)
        assert running.wait(30) == 0
    assert found == b"".join(b"%d\n" % number for number in range(1, 100001))


def test_output_that_nobody_reads_holds_up_no_other(sbx: Sbx, rootfs: Path) -> None:
    """A full standard output leaves standard error flowing."""
    script = "cat /dev/zero & seq 100000 >&2; kill $!"
    with started(sbx, rootfs, "sh", "-c", script) as running:
        assert running.stderr
        last = b""
        for line in running.stderr:
            last = line
            if line == b"100000\n":
                break
        assert last == b"100000\n"


def test_a_reader_that_goes_away_ends_the_command(sbx: Sbx, rootfs: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = ["run", "--report", str(tmp_path / "r"), str(rootfs), "cat", "/dev/zero"]
    running = sbx.start(*words, stdout=writing)
    os.close(writing)
    running.communicate(timeout=30)
    told = json.loads((tmp_path / "r").read_text())
    assert running.returncode == 141
    assert (told["reason"], told["signal_name"]) == ("signalled", "SIGPIPE")
    assert (told["output_bytes"], told["output_error"]) == (0, "")

"""Scopes with Delegate=yes, asked of the user's manager over D-Bus."""

import concurrent.futures
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.user import children
from tests.vm.box import Box
from tests.vm.systemd.conftest import scopes


def test_a_scope_of_its_own(box: Box) -> None:
    report = box.run("-m", "1G", "--", "cat", "/proc/self/cgroup")
    assert report["shown"] == "0::/\n"
    assert "cgroup" in report["layers"]
    assert report["memory_peak_bytes"]


def test_memory(box: Box) -> None:
    report = box.run("-m", "64M", "--", "tail", "/dev/zero")
    assert (report["reason"], report["returncode"]) == ("oom", 137)


def test_processor_time(box: Box) -> None:
    spin = ("sh", "-c", "while :; do :; done")
    report = box.run("--cpus", "0.5", "--timeout", "4s", "--", *spin)
    assert (report["reason"], report["returncode"]) == ("timeout", 124)
    cpu = report["cgroup"]["cpu"]
    assert 0.4 <= cpu["usage_usec"] / (cpu["nr_periods"] * 100_000) <= 0.6, cpu


def test_processes(box: Box) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 1; exit 5"
    report = box.run("--pids-limit", "32", "--timeout", "9s", "--", "sh", "-c", bomb)
    assert (report["reason"], report["pids_peak"]) == ("pids-limit", 32)


def test_a_controller_that_the_manager_does_not_have(box: Box) -> None:
    words = ("--policy", "strict", "--io-weight", "50", box.rootfs, "true")
    done = box.sbx("run", "--read-only", *words)
    assert done.returncode == 125
    assert "was not given io" in done.stderr


def test_who_joins_is_in_the_scope(box: Box) -> None:
    started = box.sbx("run", "-q", "-d", "--read-only", "-m", "64M", box.rootfs, "sleep", "100")
    identity = started.stdout.strip()
    (scope,) = scopes()
    (group,) = scope.glob("sbx-*")
    assert (group / "memory.max").read_text().strip() == str(64 << 20)
    assert len((group / "cgroup.procs").read_text().split()) == 2
    assert box.sbx("exec", identity, "cat", "/proc/self/cgroup").stdout == "0::/\n"
    assert box.sbx("exec", identity, "tail", "/dev/zero").returncode == 137
    assert "oom_kill 1" in (group / "memory.events").read_text()
    (group / "cgroup.kill").write_text("1")


def test_a_plain_run_asks_for_no_scope(box: Box) -> None:
    assert box.run("--", "true")["cgroup"] is None


def test_no_driver(box: Box, tmp_path: Path) -> None:
    policy = tmp_path / "own.toml"
    policy.write_text('extends = "default"\n[resources]\ndriver = "none"\n')
    assert box.run("--policy", policy, "--", "true")["cgroup"] is None


def test_many_at_once(box: Box) -> None:
    def one(number: int) -> int:
        words = ("run", "-q", "--read-only", "-m", "64M", box.rootfs)
        return box.sbx(*words, "sh", "-c", f"exit {number}", timeout=100).returncode

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(6))) == list(range(6))


@pytest.mark.parametrize("who", ["sbx", "launcher"])
def test_killed_parts_leave_no_scope(box: Box, who: str) -> None:
    process = box.sbx.start(*box.words("-m", "64M", "--", "sh", "-c", "echo ready; sleep 100"))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (scope,) = scopes()
    (launcher,) = children(process.pid)
    os.kill(process.pid if who == "sbx" else launcher, signal.SIGKILL)
    process.communicate(timeout=60)
    end = time.monotonic() + 60
    while scope.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_inside_a_delegated_scope_nothing_is_asked_for(box: Box) -> None:
    """What is alone in a unit that is delegated to it divides that itself."""
    words = [box.sbx.path, *map(str, box.words("-m", "64M", "--", "tail", "/dev/zero"))]
    scope = ["systemd-run", "--user", "--scope", "-q", "-p", "Delegate=yes", "--", *words]
    done = subprocess.run(scope, env={**os.environ, **box.sbx.env}, check=False, timeout=100)
    assert done.returncode == 137
    assert box.report()["reason"] == "oom"

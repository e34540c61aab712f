"""Limits of the whole sandbox hold, and the report says which one ended it."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.vm.box import Box
from tests.vm.cgroup.conftest import USER, groups, reap

MIB = 1 << 20
HOG = ("tail", "/dev/zero")  # without a newline it keeps all that it has read
SPIN = ("sh", "-c", "echo ready; while :; do :; done")


def stat(group: str, file: str = "cpu.stat") -> dict[str, int]:
    lines = (USER / group / file).read_text().splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


def test_memory_and_a_neighbour(box: Box) -> None:
    words = box.words("-m", "256M", "--", "sh", "-c", "echo ready; read _; exit 3", name="other")
    other = box.sbx.start(*words[:2], "-i", *words[2:])
    assert other.stdout is not None
    assert other.stdout.readline() == b"ready\n"
    report = box.run("-m", "64M", "--", *HOG)
    assert (report["reason"], report["returncode"], report["signal"]) == ("oom", 137, 9)
    assert report["oom_kills"] >= 1
    assert 56 * MIB <= report["memory_peak_bytes"] <= 64 * MIB
    other.communicate(b"\n", timeout=60)
    assert other.returncode == 3
    found = box.report("other")
    assert (found["reason"], found["oom_kills"]) == ("exited", 0)


def test_a_child_alone_is_killed(box: Box) -> None:
    report = box.run("-m", "64M", "--", "sh", "-c", "tail /dev/zero; echo went on; exit 0")
    assert (report["reason"], report["returncode"], report["code"]) == ("oom", 0, 0)
    assert report["oom_kills"] >= 1
    assert "went on" in report["shown"]


def test_files_in_memory_count(box: Box) -> None:
    report = box.run("-m", "64M", "--", "sh", "-c", "head -c 100000000 /dev/zero >/tmp/x")
    assert report["reason"] == "oom"


def test_half_a_processor(box: Box) -> None:
    report = box.run("--cpus", "0.5", "--timeout", "5s", "--", *SPIN)
    assert report["reason"] == "timeout"
    cpu = report["cgroup"]["cpu"]
    assert cpu["nr_throttled"] > 0
    assert 0.4 <= cpu["usage_usec"] / (cpu["nr_periods"] * 100_000) <= 0.6


def test_weights_share(box: Box) -> None:
    running: list[tuple[subprocess.Popen[bytes], str]] = []
    for weight in ("100", "400"):
        before = groups()
        words = box.words("--cpu-weight", weight, "--timeout", "60s", "--", *SPIN, name=weight)
        process = box.sbx.start(*words)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (group,) = groups() - before
        running.append((process, group))
    first = [stat(group)["usage_usec"] for _, group in running]
    time.sleep(6)
    light, heavy = (
        stat(group)["usage_usec"] - before
        for (_, group), before in zip(running, first, strict=True)
    )
    for process, _ in running:
        process.terminate()
        process.communicate(timeout=60)
    assert 2.8 <= heavy / light <= 5.5


def test_a_fork_bomb(box: Box) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 1; exit 5"
    report = box.run("--pids-limit", "32", "--timeout", "20s", "--", "sh", "-c", bomb)
    assert report["reason"] == "pids-limit"
    assert report["pids_peak"] == 32


def test_a_limit_that_is_not_reached(box: Box) -> None:
    report = box.run("-m", "64M", "--pids-limit", "16", "--cpus", "1", "--", "true")
    assert (report["reason"], report["returncode"]) == ("exited", 0)
    assert "cgroup" in report["layers"]
    assert 0 < report["memory_peak_bytes"] < 32 * MIB
    assert report["cgroup"]["memory_events"]["max"] == 0


def test_the_least_memory_is_enough(box: Box) -> None:
    report = box.run("-m", "6M", "--", "sh", "-c", "echo alive")
    assert (report["reason"], report["shown"]) == ("exited", "alive\n")


def test_the_values_are_the_kernels(box: Box) -> None:
    before = groups()
    words = box.words(
        *("-m", "64M", "--memory-reservation", "32M", "--memory-swap", "96M", "-c", "2048"),
        *("--cpus", "1.5", "--pids-limit", "77", "--", *SPIN),
    )
    process = box.sbx.start(*words)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (group,) = groups() - before
    found = {
        file: (USER / group / file).read_text().strip()
        for file in ("memory.max", "memory.low", "cpu.max", "cpu.weight", "pids.max")
    }
    process.kill()
    process.communicate(timeout=60)
    reap(box)
    assert found == {
        "memory.max": str(64 * MIB),
        "memory.low": str(32 * MIB),
        "cpu.max": "150000 100000",
        "cpu.weight": "174",
        "pids.max": "77",
    }


@pytest.mark.parametrize("policy", ["default", "strict"])
def test_a_controller_that_is_missing(box: Box, policy: str) -> None:
    words = ("run", "--policy", policy, "--read-only", "--cpuset-cpus", "0", box.rootfs, "true")
    done = box.sbx(*words)
    if policy == "strict":
        assert done.returncode == 125
        assert "cannot limit the whole sandbox to processors 0" in done.stderr
        assert f"cause: {USER} does not give cpuset" in done.stderr
        assert "hint: " in done.stderr
    else:
        assert done.returncode == 0
        assert "without limits of the whole sandbox: processors 0" in done.stderr


def test_what_nobody_asked_for_is_given_up_silently(box: Box, tmp_path: Path) -> None:
    policy = tmp_path / "own.toml"
    policy.write_text('extends = "default"\n[resources]\ndriver = "none"\n')
    done = box.sbx("run", "--read-only", "--policy", policy, "--report", "-", box.rootfs, "true")
    warnings = [line for line in done.stderr.splitlines() if "warning" in line]
    assert not any("limits of the whole sandbox" in line for line in warnings)
    assert "lost" in done.stderr

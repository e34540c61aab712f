"""Limits of disks, and of swap."""

import os

import pytest

from tests.vm.box import Box
from tests.vm.cgroup.conftest import USER, groups

MIB = 1 << 20
# The one below SBX_TEST_DISK.
DISK = next((name for name in ("/dev/ubda", "/dev/vda") if os.path.exists(name)), "")


def writing(mib: int) -> tuple[str, ...]:
    """A command that has the disk write this much, past the cache."""
    return ("dd", "if=/dev/zero", "of=/disk/x", "bs=64k", f"count={16 * mib}", "oflag=direct")


@pytest.fixture
def volume() -> tuple[str, str]:
    return "-v", f"{os.environ['SBX_TEST_DISK']}:/disk"


def test_a_disk_is_slowed_down(box: Box, volume: tuple[str, str]) -> None:
    report = box.run("--io-max", f"{DISK}:wbps=1M", *volume, "--", *writing(3))
    assert report["returncode"] == 0, report["shown"]
    assert report["cgroup"]["io"]["wbytes"] >= 3 * MIB
    assert report["wall_s"] >= 2
    assert report["written_bytes"] >= 3 * MIB


def test_the_values_for_disks_are_the_kernels(box: Box) -> None:
    words = box.words("--io-max", f"{DISK}:rbps=1M,wiops=7", "--", "sh", "-c", "echo ready; read _")
    process = box.sbx.start(*words[:2], "-i", *words[2:])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (group,) = groups()
    found = (USER / group / "io.max").read_text()
    process.communicate(b"\n", timeout=60)
    number = os.stat(DISK).st_rdev
    assert (
        found == f"{os.major(number)}:{os.minor(number)} rbps=1048576 wbps=max riops=max wiops=7\n"
    )


@pytest.mark.parametrize("policy", ["default", "strict"])
def test_weights_that_no_scheduler_of_disks_knows(box: Box, policy: str) -> None:
    """The controller is there, its file for weights is not."""
    words = ("run", "--policy", policy, "--read-only", "--io-weight", "50", box.rootfs, "true")
    done = box.sbx(*words)
    assert done.returncode == (125 if policy == "strict" else 0)
    assert "io.weight" in done.stderr


def test_what_is_no_disk(box: Box) -> None:
    done = box.sbx("run", "--read-only", "--io-max", "/dev/null:wbps=1M", box.rootfs, "true")
    assert done.returncode == 125
    assert "cannot limit /dev/null" in done.stderr
    assert "not a block device" in done.stderr


def test_swap(box: Box) -> None:
    """Files in memory go there where it is allowed, and nowhere else."""
    script = "head -c 60000000 /dev/zero >/tmp/x && echo done"
    assert box.run("-m", "32M", "--", "sh", "-c", script)["reason"] == "oom"
    report = box.run("-m", "32M", "--memory-swap", "128M", "--", "sh", "-c", script)
    assert (report["reason"], report["shown"]) == ("exited", "done\n")
    assert report["memory_peak_bytes"] <= 32 * MIB
    assert report["cgroup"]["memory_events"]["max"] > 0
    assert box.run("-m", "32M", "--memory-swap", "40M", "--", "sh", "-c", script)["reason"] == "oom"

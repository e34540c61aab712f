"""The controllers that User-Mode Linux lacks: processors, and weights of disks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vm.box import Box, groups_in
from tests.vm.cgroup.conftest import USER

ALLOWED = ("sed", "-n", r"s/^Cpus_allowed_list:\s*//p", "/proc/self/status")


@contextmanager
def group_of(box: Box, *options: str) -> Iterator[Path]:
    """The control group of a sandbox that lives meanwhile."""
    words = box.words(*options, "--", "sh", "-c", "echo ready; read _")
    process = box.sbx.start(*words[:2], "-i", *words[2:])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (name,) = groups_in(USER)
    yield USER / name
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("wanted", ["0", "1", "0-1"])
def test_processors(box: Box, wanted: str) -> None:
    report = box.run("--cpuset-cpus", wanted, "--", *ALLOWED)
    assert (report["returncode"], report["shown"]) == (0, f"{wanted}\n")


def test_processors_that_do_not_exist(box: Box) -> None:
    done = box.sbx("run", "--read-only", "--cpuset-cpus", "0,5", box.rootfs, "true")
    assert done.returncode == 125
    assert "there is no 5 among 0-1" in done.stderr
    assert "hint: choose from 0-1" in done.stderr


def test_the_values_are_the_kernels(box: Box) -> None:
    with group_of(box, "--cpuset-cpus", "1", "--io-weight", "50") as group:
        assert (group / "cpuset.cpus").read_text() == "1\n"
        assert (group / "cpuset.cpus.effective").read_text() == "1\n"
        assert (group / "io.weight").read_text() == "default 50\n"


def test_strict_finds_every_limit(box: Box) -> None:
    """None of its limits is given up."""
    words = ("--cpuset-cpus", "0", "--io-weight", "50", "--cpu-weight", "300", "-m", "64M")
    report = box.run("--policy", "strict", *words, "--", "true")
    assert (report["reason"], report["returncode"]) == ("exited", 0), report["shown"]
    assert [lost for lost in report["degradations"] if lost["layer"] == "cgroup"] == []
    assert set(report["cgroup"]["pressure"]) >= {"cpu", "memory"}

"""The host's root: its control groups lie below one folder at the top."""

import os
import signal
from pathlib import Path

from tests.vm.box import Box
from tests.vm.root.conftest import FOLDER, groups

MIB = 1 << 20


def test_limits_of_roots_sandboxes(box: Box) -> None:
    assert os.getuid() == 0
    report = box.run("-m", "64M", "--pids-limit", "32", "--", "tail", "/dev/zero")
    assert (report["reason"], report["returncode"]) == ("oom", 137), report["shown"]
    assert "cgroup" in report["layers"]
    assert 56 * MIB <= report["memory_peak_bytes"] <= 64 * MIB
    assert FOLDER.is_dir()


def test_the_group_is_below_the_folder(box: Box) -> None:
    words = box.words("--cpu-weight", "300", "--", "sh", "-c", "echo ready; read _")
    process = box.sbx.start(*words[:2], "-i", *words[2:])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (group,) = groups()
    assert (FOLDER / group / "cpu.weight").read_text() == "300\n"
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0


def test_what_a_killed_sbx_left_is_removed(box: Box) -> None:
    process = box.sbx.start(*box.words("--", "sh", "-c", "echo ready; sleep 100"))
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (group,) = groups()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    report = box.run("--", "true")
    assert report["returncode"] == 0
    while groups():  # the killed one's launcher may live a moment longer
        report = box.run("--", "true")
    assert not Path(FOLDER / group).exists()

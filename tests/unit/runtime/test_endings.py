"""What the user is told of a run that did not end by itself."""

from typing import Any

import pytest

from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime.endings import endings
from sandbox.runtime.report import Report

REPORT = Report(
    name="box", reason="exited", exit_code=7, code=7, signal=None, wall_s=0.1, cpu_user_s=0.0,
    cpu_system_s=0.0, peak_rss_bytes=0, output_bytes=0, output_dropped_bytes=0, layers=(),
    degradations=(), storage="overlay", storage_reason="", network="none", policy="default",
    identity="range", pid=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"reason": "timeout", "exit_code": 124},
            "the time limit ended the sandbox: 5m, from strict",
        ),
        ({"reason": "policy-killed"}, "a system call that its policy forbids"),
        ({"reason": "launcher-killed"}, "the launcher was killed"),
        (
            {"reason": "oom", "oom_kills": 2},
            "2 of its processes were killed for want of memory: 1G",
        ),
        ({"reason": "pids-limit"}, "refused by the limit of processes: 256, from strict"),
        ({"reason": "disk-full", "disk_full": "/"}, "for changes of the root file system: "),
        ({"reason": "disk-full", "disk_full": "/tmp"}, "no room was left on /tmp: "),
        (
            {"output_bytes": 64 << 20, "output_dropped_bytes": 5},
            "5 bytes of output were dropped above the limit: 16M, from",
        ),
        (
            {"output_error": "no space left on device", "output_dropped_bytes": 5},
            "output could not be written: 5 bytes were lost: no space left on device",
        ),
    ],
)
def test_ends_that_the_user_is_told_of(changes: dict[str, Any], words: str) -> None:
    told = endings(REPORT.replace(**changes), build_policy(load_policy("strict")))
    assert [f"{what}: {cause}" for what, cause in told if words in f"{what}: {cause}"]


def test_an_end_of_its_own_is_no_news() -> None:
    assert endings(REPORT, build_policy(load_policy("strict"))) == []

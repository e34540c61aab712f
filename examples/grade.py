"""Grade a student's program: run it on inputs, compare what it prints.

    python examples/grade.py ROOTFS PROGRAM.py

A program may loop, fork, write without end or look for the answers: it sees its own folder and
nothing else of this machine, and what it does ends with its time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import sandbox

CASES = [("1 2\n", "3\n"), ("20 22\n", "42\n"), ("-5 5\n", "0\n")]


def grade(rootfs: str, program: Path) -> int:
    """Print a line for each case; return how many were right."""
    policy = (
        sandbox.Policy.strict()
        .with_mount(program, "/task/program.py")
        .with_timeout(5)
        .with_output_limit("64k")
        .with_limit(nproc=16)
    )
    right = 0
    for given, wanted in CASES:
        try:
            result = sandbox.run(
                ["python3", "/task/program.py"],
                rootfs=rootfs,
                policy=policy,
                input=given,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
            )
        except sandbox.TimeoutExpired:
            print(f"{given.strip()}: too slow")
            continue
        good = result.returncode == 0 and result.stdout == wanted
        verdict = "right" if good else f"wrong ({result.report.reason}, {result.stdout[:20]!r})"
        print(f"{given.strip()}: {verdict}, {result.report.cpu_user_s:.2f} s")
        right += good
    return right


if __name__ == "__main__":
    points = grade(sys.argv[1], Path(sys.argv[2]))
    print(f"{points} of {len(CASES)}")
    sys.exit(points != len(CASES))

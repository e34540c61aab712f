"""A step of continuous integration: commands in one sandbox, a cache that stays, a time limit.

python examples/ci_job.py ROOTFS CHECKOUT CACHE COMMAND…
"""

from __future__ import annotations

import sys
from pathlib import Path

import sandbox

LIMIT_S = 600


def job(rootfs: str, checkout: Path, cache: Path, command: list[str]) -> int:
    """Run `command` on a read-only checkout; return its exit code."""
    cache.mkdir(parents=True, exist_ok=True)
    policy = (
        sandbox.Policy.ci()
        .with_mount(checkout, "/src")
        .with_mount(cache, "/cache", read_only=False)
        .with_env(CI="true", XDG_CACHE_HOME="/cache")
        .with_timeout(LIMIT_S)
    )
    result = sandbox.run(
        command, rootfs=rootfs, policy=policy, cwd="/src", timeout=LIMIT_S, stdout=None
    )
    print("\n".join(result.report.people()), file=sys.stderr)
    return result.returncode


if __name__ == "__main__":
    try:
        sys.exit(job(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
    except sandbox.TimeoutExpired as error:
        print(error, file=sys.stderr)
        sys.exit(124)

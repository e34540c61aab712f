"""In the guest with systemd, as its user: scopes asked of the user's manager. Exit status 0: well.

A program, not a pytest module: the guest's own Python has no packages. Argument: the sbx command.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

UNIFIED = Path("/sys/fs/cgroup")
MANAGER = UNIFIED / f"user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service"
SBX = sys.argv[1]
ROOT = "/tmp/root"
REPORT = "/tmp/report"


def run(*words: str, expect: int = 0) -> str:
    """Run one command line of sbx; what it printed."""
    done = subprocess.run([SBX, *words], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == expect, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def sandbox(*words: str, expect: int = 0) -> str:
    """Run a command in a sandbox with a report."""
    return run("run", "-q", "--read-only", "--report", REPORT, *words, expect=expect)


def report() -> dict[str, object]:
    """The report of the last one."""
    found: dict[str, object] = json.loads(Path(REPORT).read_text())
    return found


def scopes() -> list[Path]:
    """The scopes of sandboxes that there are."""
    return list(MANAGER.glob("**/sbx-*.scope"))


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """One behaviour; afterwards no scope is left, or soon none."""
    began = time.monotonic()
    yield
    while scopes():
        assert time.monotonic() - began < 60, scopes()
        time.sleep(0.05)
    sys.stdout.write(f"ok {name} ({time.monotonic() - began:.1f} s)\n")


def joined() -> None:
    """Others enter the group of a detached sandbox; its end takes the scope along."""
    identity = run("run", "-q", "-d", "--read-only", "-m", "64M", ROOT, "sleep", "100").strip()
    (scope,) = scopes()
    (box,) = scope.glob("sbx-*")
    assert (box / "memory.max").read_text().strip() == str(64 << 20)
    assert len((box / "cgroup.procs").read_text().split()) == 2
    assert run("exec", identity, "cat", "/proc/self/cgroup") == "0::/\n"
    run("exec", identity, "tail", "/dev/zero", expect=137)
    assert "oom_kill 1" in (box / "memory.events").read_text()
    (box / "cgroup.kill").write_text("1")


def main() -> None:
    """Every step, the first that fails ends it."""
    run("rootfs", "from-host", ROOT, "sh", "cat", "tail", "sleep", "true")
    with step("a scope of its own"):
        assert sandbox("-m", "1G", ROOT, "cat", "/proc/self/cgroup") == "0::/\n"
        found = report()
        assert "cgroup" in found["layers"], found  # type: ignore[operator]
        assert found["memory_peak_bytes"]
    with step("memory"):
        sandbox("-m", "64M", ROOT, "tail", "/dev/zero", expect=137)
        assert report()["reason"] == "oom"
    with step("processor time"):
        spin = ("sh", "-c", "while :; do :; done")
        sandbox("--cpus", "0.5", "--timeout", "4s", ROOT, *spin, expect=124)
        cpu = report()["cgroup"]["cpu"]  # type: ignore[index]
        assert 0.4 <= cpu["usage_usec"] / (cpu["nr_periods"] * 100_000) <= 0.6, cpu
    with step("processes"):
        bomb = "bomb() { bomb | bomb & }; bomb; sleep 1; exit 5"
        sandbox("--pids-limit", "32", "--timeout", "9s", ROOT, "sh", "-c", bomb, expect=5)
        assert report()["reason"] == "pids-limit"
    with step("a controller that the manager does not have"):
        words = ("--policy", "strict", "--io-weight", "50", ROOT, "true")
        assert "was not given io" in run("run", "--read-only", *words, expect=125)
    with step("exec"):
        joined()
    with step("a plain run asks for no scope"):
        sandbox(ROOT, "true")
        assert report()["cgroup"] is None
    with step("no driver"):
        Path("/tmp/own.toml").write_text('extends = "default"\n[resources]\ndriver = "none"\n')
        sandbox("--policy", "/tmp/own.toml", ROOT, "true")
        assert report()["cgroup"] is None


if __name__ == "__main__":
    main()

"""What a control group adds to a start, where there are some: in a guest of tests/vm.

python -m tests.vm.show -- python -m bench.groups delegated
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import clock
from sandbox.plan.request import Available
from sandbox.services.cgroup import find_group
from sandbox.services.cgroup.account import read_account
from sandbox.services.cgroup.group import claim_name, make_folder

SAMPLES = 200
SBX = str(Path(sys.executable).parent / "sbx")


def _entry(name: str, driver: str, root: Path, folder: Path, *options: str) -> clock.Entry:
    policy = folder / f"{driver}.toml"
    policy.write_text(f'extends = "default"\n[resources]\ndriver = "{driver}"\n')
    words = ["run", "-q", "--read-only", "--policy", str(policy), *options, str(root), "true"]
    names = ("HOME", "USER", "PATH", "XDG_RUNTIME_DIR")
    env = {name: os.environ[name] for name in names if name in os.environ}
    return clock.Entry(name, clock.spawn([SBX, *words], env))


def _sampling(available: Available) -> float:
    """Seconds for one reading of all figures, as the report does it at the end."""
    claim = claim_name()
    group = make_folder(f"{available.parent}/{claim.name}", claim)
    try:
        began = time.perf_counter()
        for _ in range(SAMPLES):
            read_account(group)
        return (time.perf_counter() - began) / SAMPLES
    finally:
        group.remove()


def main() -> None:
    """One table; the driver is named by the argument."""
    driver = sys.argv[1]
    rounds = int(os.environ.get("BENCH_ROUNDS", "20"))
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        root = folder / "root"
        made = [SBX, "rootfs", "from-host", str(root), "true"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, timeout=60)
        limits = ("-m", "64M", "--pids-limit", "32")
        entries = [
            _entry("without a control group", "none", root, folder),
            _entry(f"{driver}", driver, root, folder),
            _entry(f"{driver}, with limits asked for", driver, root, folder, *limits),
        ]
        clock.measure(entries, rounds)
        title = f"Starting a program in User-Mode Linux, {rounds} interleaved rounds"
        clock.table(title, entries, "without a control group", {})
        available = find_group(driver)
        if available.parent:
            seconds = _sampling(available)
            share = seconds / entries[0].median_s
            name = "reading all figures for the report"
            sys.stdout.write(f"{name:<44} {seconds * 1e3:7.2f}ms {'':9} {share:7.3f}\n")


if __name__ == "__main__":
    main()

"""The Python API beside subprocess.run of bwrap, in a process of a given size.

Arguments: ROOT, MiB resident, rounds. A process of its own for each size: what it holds counts.
"""

import cProfile
import os
import pstats
import resource
import subprocess
import sys
from pathlib import Path

import sandbox
from bench import peers
from bench.clock import Entry, measure, table
from bench.payload import CODE

TARGETS = {"sandbox.run": 0.6}
INSIDE_TARGETS = {"Sandbox.run in a living sandbox": 0.6}


def start(root: str, size_mib: str, rounds: str) -> None:
    """Run this module in a process of `size_mib`."""
    subprocess.run([sys.executable, "-m", "bench.api", root, size_mib, rounds], check=True)


def _peer(root: Path) -> Entry | None:
    found = peers.bwrap(root, {})
    if found is None:
        return None
    words = f"--unshare-all --bind {root} / --proc /proc --dev /dev --tmpfs /tmp /bin/payload"
    argv = ["bwrap", *words.split()]

    def run() -> int:
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode

    return Entry("subprocess.run([bwrap, …])", run, CODE)


def _resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def main() -> None:
    """Print the tables of one size."""
    root, size_mib, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # Written to, so that it is resident.
    ballast = bytearray(b"\1") * (max(0, size_mib - _resident_mib()) << 20)
    now = _resident_mib()
    single = sandbox.Policy.default().with_identity(map="single", user=0)

    def run() -> int:
        return sandbox.run(["/bin/payload"], rootfs=root, policy=single).returncode

    fresh = Entry("sandbox.run", run, CODE)
    with sandbox.Sandbox(rootfs=root, policy=single) as box:

        def inside() -> int:
            return box.run(["/bin/payload"]).returncode

        entered = Entry("Sandbox.run in a living sandbox", inside, CODE)
        peer = _peer(root)
        entries = [entry for entry in (peer, fresh, entered) if entry]
        measure(entries, rounds)
    title = f"From a Python process of {now} MiB, {rounds} interleaved rounds; ratios to bwrap"
    table(title, [entry for entry in (peer, fresh) if entry], "subprocess.run([bwrap, …])", TARGETS)
    title = "A command in a living sandbox; ratios to a fresh run"
    table(title, [fresh, entered], "sandbox.run", INSIDE_TARGETS)
    if os.environ.get("BENCH_PROFILE"):
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(rounds):
            run()
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    del ballast


if __name__ == "__main__":
    main()

"""The Python API beside subprocess.run of bwrap, in a process of a given size.

Arguments: ROOT, MiB resident, rounds. A process of its own for each size: what it holds counts.
It prints the medians as JSON.
"""

import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
from pathlib import Path

import sandbox
from bench import peers
from bench.clock import Comparison, Entry, measure
from bench.payload import CODE

RUN_RATIO = 0.6
INSIDE_RATIO = 0.6
PEER = "subprocess.run([bwrap, …])"


def rows(root: str, size_mib: str, rounds: str) -> list[Comparison]:
    """What a process of `size_mib` pays for a sandbox, and for a command in one that lives."""
    argv = [sys.executable, "-m", "bench.api", root, size_mib, rounds]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE)
    peer, fresh, inside = json.loads(done.stdout)
    found = []
    if peer:
        name = f"sandbox.run, {size_mib} MiB resident"
        found.append(Comparison(name, fresh, PEER, peer, "ms", RUN_RATIO))
    name = f"Sandbox.run, {size_mib} MiB resident"
    return [*found, Comparison(name, inside, "sandbox.run", fresh, "ms", INSIDE_RATIO)]


def _peer(root: Path) -> Entry | None:
    found = peers.bwrap(root, {})
    if found is None:
        return None
    words = f"--unshare-all --bind {root} / --proc /proc --dev /dev --tmpfs /tmp /bin/payload"
    argv = ["bwrap", *words.split()]

    def run() -> int:
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode

    return Entry(PEER, run, CODE)


def _resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def main() -> None:
    """Print the figures of one size."""
    root, size_mib, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # Written to, so that it is resident.
    ballast = bytearray(b"\1") * (max(0, size_mib - _resident_mib()) << 20)
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
    broken = [f"{entry.name}: {entry.problem}" for entry in entries if entry.problem]
    if broken:
        raise SystemExit(f"bench: error: {'; '.join(broken)}")
    print(json.dumps([e and e.median_s * 1e3 for e in (peer, fresh, entered)]))
    if os.environ.get("BENCH_PROFILE"):
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(rounds):
            run()
        profile.disable()
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    del ballast


if __name__ == "__main__":
    main()

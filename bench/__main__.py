"""Print all tables. BENCH_ROUNDS is the number of rounds of the starts (default 100)."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import api, clock, costs, living, names, network, ours, payload, peers


def main() -> None:
    """Measure starts, memory, filters and copies, in folders that are removed afterwards."""
    rounds = int(os.environ.get("BENCH_ROUNDS", "100"))
    env = {
        name: os.environ[name] for name in ("HOME", "USER", "PATH", "LANG") if name in os.environ
    }
    beside = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sbx-dev"
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=beside) as name:
        folder = Path(name)
        root = payload.make_root(folder)
        entries = peers.all_peers(root, folder, env) + ours.all_ours(root, folder, env)
        clock.measure(entries, rounds)
        title = f"Starting a static program, {rounds} interleaved rounds; ratios to bwrap"
        clock.table(title, entries, "bwrap", ours.TARGETS)

        shell = folder / "shell"
        sbx = str(Path(sys.executable).parent / "sbx")
        made = [sbx, "rootfs", "from-host", str(shell), "sh", "sleep", "true"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, timeout=60)
        costs.print_memory(shell, "sh")
        lives = [row for mib in ("30", "1024") for row in api.rows(str(root), mib, str(rounds))]
        lives += living.rows(shell, rounds)
        title = f"The Python API and living sandboxes, medians of {rounds} interleaved rounds"
        clock.comparisons(title, lives)
        costs.print_filters(rounds)
        network.main()
        names.main()

        debian = os.environ.get("SBX_TEST_DEBIAN_OWN", "")
        if os.path.exists(f"{debian}/usr/bin/gcc"):
            copies = costs.copy_entries(Path(debian), folder)
            costs.measure_copies(copies, folder, 3)
            title = "Copying a Debian root file system, 3 rounds, page cache warm; ratios to cp -a"
            clock.table(title, copies, "cp -a", {"copy fallback": 0.7})


if __name__ == "__main__":
    main()

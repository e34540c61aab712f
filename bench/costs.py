"""Costs other than starting: the launcher's memory, loading the filter, copying a root."""

import ctypes
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.clock import Entry
from sandbox.host.probe import host_facts
from sandbox.linux.paths import native
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.seccomp import program
from sandbox.services.storage import remove_tree
from sandbox.services.storage.prepared import copy_rootfs


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _private_kib(pid: int) -> int:
    """Anonymous resident memory; the files of a process that cannot be dumped hide the rest."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["RssAnon"].split()[0])


def print_memory(root: Path, sleeper: str) -> None:
    """Print the private memory of launcher and init while a command sleeps."""
    sbx = str(Path(sys.executable).parent / "sbx")
    script = "echo ready; sleep 60"
    with subprocess.Popen(
        [sbx, "run", "--policy", "strict", str(root), sleeper, "-c", script],
        stdout=subprocess.PIPE,
    ) as running:
        try:
            if running.stdout is None or running.stdout.readline() != b"ready\n":
                raise SystemExit("bench: error: the sleeping sandbox did not start")
            launcher = _children(running.pid)[0]
            init = _children(launcher)[0]
            each = {"launcher": _private_kib(launcher), "init": _private_kib(init)}
        finally:
            running.terminate()
    total = sum(each.values())
    shown = ", ".join(f"{name} {kib} KiB" for name, kib in each.items())
    verdict = "met" if max(each.values()) <= 300 else "MISSED"
    print(f"\nPrivate memory while a command sleeps: {shown}, together {total} KiB")
    print(f"  target <= 300 KiB a process: {verdict}")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _load_once(code: bytes) -> float:
    """Load a filter in a child; return the seconds that the kernel took."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(code, len(code))
        loaded = _Program(len(code) // 8, ctypes.addressof(buffer))
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        began = time.perf_counter_ns()
        result = libc.prctl(22, 2, ctypes.byref(loaded), 0, 0)  # PR_SET_SECCOMP, filter
        took = time.perf_counter_ns() - began
        os.write(writing, str(took if result == 0 else -1).encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 32)
    os.close(reading)
    os.waitpid(pid, 0)
    return int(said or -1) / 1e9


def print_filters(rounds: int) -> None:
    """Print size and load time of the filter of each built-in policy."""
    print("\nSystem call filters                     instructions   load, median      min  target")
    for name in ("strict", "default", "ci", "permissive"):
        policy = build_policy(load_policy(name))
        code = program(
            policy.seccomp,
            nested=policy.namespaces.nested,
            capabilities=policy.capabilities.keep,
            cache_dir=None,
        )
        times = [_load_once(code) for _ in range(rounds)]
        if min(times) < 0:
            print(f"{name:<40} the kernel refuses it")
            continue
        median = statistics.median(times) * 1e6
        verdict = "met" if median <= 80 and len(code) // 8 <= 120 else "MISSED"
        print(
            f"{name:<40} {len(code) // 8:>11} {median:>12.0f}us {min(times) * 1e6:>6.0f}us"
            f"  <= 80us, 120 {verdict}"
        )


def copy_entries(source: Path, folder: Path) -> list[Entry]:
    """The copy fallback and `cp -a` in the same map of ids, each to a fresh folder."""
    facts = host_facts()
    idmap = [native("sbx-idmap"), "--uid", f"0:{facts.uid}:1", "--gid", f"0:{facts.gid}:1"]
    for option, ranges in (("--uid", facts.subuids), ("--gid", facts.subgids)):
        inside = 1
        for start, count in ranges:
            idmap += [option, f"{inside}:{start}:{count}"]
            inside += count
    copy = shutil.which("cp") or "/bin/cp"

    def ours() -> int:
        copy_rootfs(str(source), str(folder / "ours"), facts, single=False)
        return 0

    def peer() -> int:
        command = [*idmap, "--", copy, "-a", str(source), str(folder / "peer")]
        return subprocess.run(command, check=False, timeout=300).returncode

    return [Entry("cp -a", peer), Entry("copy fallback", ours)]


def measure_copies(entries: list[Entry], folder: Path, rounds: int) -> None:
    """Alternate the copies, removing each outside of the measured time."""
    facts = host_facts()
    for number in range(rounds + 1):
        for entry in entries if number % 2 else reversed(entries):
            began = time.perf_counter()
            code = entry.run()
            took = time.perf_counter() - began
            for name in ("ours", "peer"):
                remove_tree(str(folder / name), facts)
            os.sync()
            if code != 0:
                entry.problem = f"exit code {code}"
            if number:  # the first round warms the page cache
                entry.times.append(took)

"""What belongs to the tests: processes, mounts, folders of sbx."""

import contextlib
import ctypes
import os
import pwd
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def subid_ranges(path: str) -> list[range]:
    """The caller's ranges in /etc/subuid or /etc/subgid."""
    found = []
    names = {pwd.getpwuid(os.getuid()).pw_name, str(os.getuid())}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        name, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        if name in names and start.isdigit() and count.isdigit():
            found.append(range(int(start), int(start) + int(count)))
    return found


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Meanwhile orphaned descendants become children of this process: none is lost sight of."""
    set_child_subreaper = 36
    libc = ctypes.CDLL(None, use_errno=True)
    before = _children()
    if libc.prctl(set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        yield
    finally:
        libc.prctl(set_child_subreaper, 0, 0, 0, 0)
        for pid in _children() - before:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _children() -> set[int]:
    lists = Path("/proc/self/task").glob("*/children")
    return {int(word) for path in lists for word in path.read_text().split()}


def processes() -> dict[tuple[int, int], str]:
    """(pid, start time) → command of every living descendant of this process."""
    parents: dict[int, int] = {}
    living: dict[int, int] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        parents[int(entry)] = int(fields[1])
        if fields[0] not in b"ZX":
            living[int(entry)] = int(fields[19])

    def is_ours(pid: int) -> bool:
        while pid > 1:
            pid = parents.get(pid, 0)
            if pid == os.getpid():
                return True
        return False

    return {(pid, start): _command(pid) for pid, start in living.items() if is_ours(pid)}


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "?"
    return words.replace(b"\0", b" ").decode("utf-8", "replace")


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@dataclass(frozen=True)
class Belongings:
    """A moment's processes, mounts and folders of runs."""

    processes: dict[tuple[int, int], str]
    mounts: tuple[str, ...]
    folders: frozenset[str]

    @classmethod
    def look(cls, cache: Path) -> "Belongings":
        """Look at this machine, with sbx's cache folder in `cache`."""
        runs = cache / "sbx" / "runs"
        folders = {p.name for p in runs.iterdir() if p.name != ".gate"} if runs.exists() else set()
        mounts = tuple(Path("/proc/self/mountinfo").read_text().splitlines())
        return cls(processes(), mounts, frozenset(folders))

    def new_since(self, before: "Belongings") -> list[str]:
        """What is here now and was not before."""
        grown = [
            f"process {pid}: {name}"
            for (pid, start), name in self.processes.items()
            if (pid, start) not in before.processes
        ]
        grown += [f"mount {line}" for line in self.mounts if line not in before.mounts]
        return grown + [f"folder {name}" for name in self.folders - before.folders]


def wait_until_gone(before: Belongings, cache: Path, deadline_s: float = 10.0) -> list[str]:
    """Wait until nothing is here that was not `before`; return what is left at the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        left = Belongings.look(cache).new_since(before)
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.02)

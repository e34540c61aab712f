"""What belongs to the user who runs the tests: processes, mounts, folders of sbx."""

import os
import pwd
import time
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


def processes() -> dict[tuple[int, int], str]:
    """(pid, start time) → command of every process of the user or of its subordinate ids."""
    mine = [range(os.getuid(), os.getuid() + 1), *subid_ranges("/etc/subuid")]
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            owner = os.stat(f"/proc/{entry}").st_uid
            fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
            status = Path(f"/proc/{entry}/status").read_text()
            name = (
                Path(f"/proc/{entry}/cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode("utf-8", "replace")
            )
        except OSError:
            continue
        uid = int(status.split("Uid:")[1].split()[0])
        if fields[0] != b"Z" and any(uid in ids or owner in ids for ids in mine):
            found[int(entry), int(fields[19])] = name or status.split()[1]
    return found


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

"""The processes of a sandbox and what they use, as its control group counts it, else as /proc
shows it from outside.

They are found by their pid namespace and by their parents, so that what joined later is among
them. Everything inside is hostile: files are read bounded, and what cannot be read is unknown.
"""

from __future__ import annotations

import os
import time

from sandbox.record import Record
from sandbox.runtime.history import read_history
from sandbox.runtime.inspect import init_pid, network_account

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.runtime.registry import Folder

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST = 1 << 16  # bytes of a file of /proc
_ARGUMENTS = 4096
# Places in /proc/PID/stat after the name, proc(5).
_STATE, _PARENT, _USER, _SYSTEM, _USER_REAPED, _SYSTEM_REAPED, _RSS = 0, 1, 11, 12, 13, 14, 21


class Process(Record):
    """One process: `pid` outside, `inner_pid` and `user` inside, None where unknown.

    `cpu_s` is its own CPU time, `reaped_s` that of its children that have ended.
    """

    pid: int
    parent: int
    inner_pid: int | None
    user: int | None
    state: str
    cpu_s: float
    reaped_s: float
    rss_bytes: int
    argv: tuple[str, ...]


class Usage(Record):
    """What a sandbox uses at one moment; None is what cannot be known.

    `memory_kind`: "cgroup" is what its control group is charged for, without files that are only
    cached; "pss" counts shared pages in parts, "rss" counts them for each process. CPU time and
    bytes read and written on storage are of all processes there have been where a control group
    counts them, else of those that live and their reaped children. `memory_limit_bytes`,
    `pids_limit`: None is no limit. Received and sent bytes are of its own network: what its devices
    carry but for the loopback, or in `--network user` the payload of TCP and UDP.
    """

    at_s: float
    cpu_s: float
    memory_bytes: int
    memory_kind: str
    pids: int
    read_bytes: int | None
    written_bytes: int | None
    received_bytes: int | None
    sent_bytes: int | None
    memory_limit_bytes: int | None = None
    pids_limit: int | None = None

    def cpu_percent(self, before: Usage) -> float:
        """The CPU time since an earlier moment: 100 is one processor, all of the time."""
        seconds = self.at_s - before.at_s
        return max(0.0, self.cpu_s - before.cpu_s) / seconds * 100 if seconds > 0 else 0.0


def _read(path: str, most: int = _MOST) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, most)
    except OSError:
        return None
    finally:
        os.close(fd)


def _stat(pid: int) -> tuple[bytes, list[bytes]] | None:
    """Name and fields of /proc/PID/stat."""
    data = _read(f"/proc/{pid}/stat")
    if not data:
        return None
    head, _, rest = data.rpartition(b")")
    fields = rest.split()
    return (head.partition(b"(")[2], fields) if len(fields) > _RSS else None


def processes(folder: Folder) -> list[Process]:
    """All processes of a sandbox that can be seen, the one that started it first."""
    init = init_pid(read_history(folder))
    if init is None or not folder.lives():
        return []
    stats = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := _stat(int(name))):
            stats[int(name)] = found
    if init not in stats or int(stats[init][1][_PARENT]) != folder.description.pid:
        return []
    members = _members(init, {pid: int(fields[_PARENT]) for pid, (_, fields) in stats.items()})
    users = _user_map(members)
    shown = (_process(pid, *stats[pid], users) for pid in members)
    return [process for process in shown if process and process.state not in "ZX"]


def _members(init: int, parents: dict[int, int]) -> list[int]:
    """The numbers of the processes of the pid namespace whose first process is `init`."""
    inside = {init}
    by_parent: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        by_parent.setdefault(parent, []).append(pid)

    def take(pid: int) -> None:
        waiting = [pid]
        while waiting:
            for child in by_parent.get(waiting.pop(), ()):
                if child not in inside:
                    inside.add(child)
                    waiting.append(child)

    take(init)
    # What came in by joining has its parent outside; the link tells whose namespace it is in.
    spaces = {space for pid in sorted(inside) if (space := _namespace(pid)) is not None}
    if spaces:
        for pid in parents:
            if pid not in inside and _namespace(pid) in spaces:
                inside.add(pid)
                take(pid)
    return sorted(inside)


def _namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def _user_map(members: list[int]) -> list[tuple[int, int, int]]:
    """(first inside, first outside, count) of the users of the innermost sandbox process."""
    for pid in reversed(members):
        lines = [line.split() for line in (_read(f"/proc/{pid}/uid_map") or b"").splitlines()]
        found = [(int(a), int(b), int(c)) for a, b, c in (x for x in lines if len(x) == 3)]
        if found:
            return found
    return []


def _process(
    pid: int, name: bytes, fields: list[bytes], users: list[tuple[int, int, int]]
) -> Process | None:
    """What /proc tells of a process; None when it has gone meanwhile."""
    status = {
        key: words.split()
        for line in (_read(f"/proc/{pid}/status") or b"").splitlines()
        for key, _, words in [line.partition(b":")]
        if key in (b"NSpid", b"Uid")
    }
    if not status:
        return None
    numbers, ids = status.get(b"NSpid", []), status.get(b"Uid", [])
    outside = int(ids[1]) if len(ids) > 1 else -1
    inside = [first + outside - at for first, at, count in users if at <= outside < at + count]
    words = (_read(f"/proc/{pid}/cmdline", _ARGUMENTS) or b"").rstrip(b"\0").split(b"\0")
    argv = tuple(os.fsdecode(word) for word in words) if words != [b""] else ()
    return Process(
        pid=pid,
        parent=int(fields[_PARENT]),
        inner_pid=int(numbers[1]) if len(numbers) > 1 else None,
        user=inside[0] if inside else None,
        state=fields[_STATE].decode(),
        cpu_s=(int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS,
        reaped_s=(int(fields[_USER_REAPED]) + int(fields[_SYSTEM_REAPED])) / _TICKS,
        rss_bytes=int(fields[_RSS]) * _PAGE,
        argv=argv or (f"[{os.fsdecode(name)}]",),
    )


# ---- sums ------------------------------------------------------------------------------------


def usage(folder: Folder) -> Usage | None:
    """What a sandbox uses now; None when it has no processes (any more)."""
    found = processes(folder)
    if not found:
        return None
    pids = [process.pid for process in found]
    memory, kind = _memory(found)
    received, sent = _network(folder, pids[-1])
    seen = Usage(
        at_s=time.monotonic(),
        cpu_s=sum(process.cpu_s + process.reaped_s for process in found),
        memory_bytes=memory,
        memory_kind=kind,
        pids=len(found),
        read_bytes=_storage(pids, b"read_bytes"),
        written_bytes=_storage(pids, b"write_bytes"),
        received_bytes=received,
        sent_bytes=sent,
    )
    return seen.replace(**_counted(folder))


def _counted(folder: Folder) -> dict[str, object]:
    """What the control group says of the fields of Usage, as far as its controllers count it."""
    if not folder.description.cgroup[0]:
        return {}
    from sandbox.runtime.grouped import group_of
    from sandbox.services.cgroup.account import read_account

    group = group_of(folder)
    if group is None:
        return {}
    try:
        account = read_account(group)
        stat = dict(line.split() for line in group.read("memory.stat").splitlines())
        files = ("memory.current", "memory.max", "pids.current", "pids.max")
        memory, memory_max, pids, pids_max = (_whole(group.read(file)) for file in files)
    finally:
        group.release()
    counted: dict[str, object] = {"memory_limit_bytes": memory_max, "pids_limit": pids_max}
    if memory is not None:
        cached = _whole(stat.get("inactive_file", "")) or 0
        counted |= {"memory_bytes": max(0, memory - cached), "memory_kind": "cgroup"}
    if pids is not None:
        counted["pids"] = pids
    if account.cpu:
        counted["cpu_s"] = dict(account.cpu)["usage_usec"] / 1e6
    if account.io is not None:
        counted["read_bytes"] = dict(account.io)["rbytes"]
        counted["written_bytes"] = dict(account.io)["wbytes"]
    return counted


def _whole(text: str) -> int | None:
    """A number; None for "max", and for a file that is not there."""
    return int(text) if text.strip().isdecimal() else None


def _memory(found: list[Process]) -> tuple[int, str]:
    """The part of each process in its pages where the kernel tells it of all but our own init."""
    parts = []
    for process in found:
        text = _read(f"/proc/{process.pid}/smaps_rollup")
        part = _number(text, b"Pss", 1024)
        if part is None and process.inner_pid == 1:
            part = process.rss_bytes
        if part is None:
            return sum(process.rss_bytes for process in found), "rss"
        parts.append(part)
    return sum(parts), "pss"


def _number(text: bytes | None, key: bytes, unit: int) -> int | None:
    for line in (text or b"").splitlines():
        name, _, value = line.partition(b":")
        if name == key and value.split():
            return int(value.split()[0]) * unit
    return None


def _storage(pids: list[int], key: bytes) -> int | None:
    known = [n for pid in pids if (n := _number(_read(f"/proc/{pid}/io"), key, 1)) is not None]
    return sum(known) if known else None


def _network(folder: Folder, pid: int) -> tuple[int | None, int | None]:
    """Bytes received and sent."""
    mode = folder.description.network
    if mode == "host":
        return None, None
    return _carried(folder) if mode == "user" else _by_devices(pid)


def _carried(folder: Folder) -> tuple[int | None, int | None]:
    """Its TCP reaches no device: the process that carries it counts."""
    account = network_account(folder)
    if account is None:
        return None, None
    rows = [*account["destinations"], *account["published"], account["others"]]
    return sum(row["received_bytes"] for row in rows), sum(row["sent_bytes"] for row in rows)


def _by_devices(pid: int) -> tuple[int | None, int | None]:
    data = _read(f"/proc/{pid}/net/dev")
    if data is None:
        return None, None
    received = sent = 0
    for line in data.splitlines()[2:]:
        name, _, words = line.partition(b":")
        fields = words.split()
        if name.strip() != b"lo" and len(fields) >= 16:
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent

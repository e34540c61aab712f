"""What a control group used, read from its files once its processes have ended.

None stands for what this kernel, or this group's controllers, do not count.
"""

from __future__ import annotations

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.services.cgroup.group import Group

_CPU = ("usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec")
_IO = ("rbytes", "wbytes", "rios", "wios")


class Account(Record):
    """Bytes, microseconds and counts since the group was made.

    `memory_events`, `pids_events`, `cpu`, `io` (all disks together) are (name, number) as the
    kernel names them; `pressure` is (resource, microseconds in which something waited).
    """

    memory_peak_bytes: int | None = None
    memory_events: tuple[tuple[str, int], ...] | None = None
    pids_peak: int | None = None
    pids_events: tuple[tuple[str, int], ...] | None = None
    cpu: tuple[tuple[str, int], ...] | None = None
    io: tuple[tuple[str, int], ...] | None = None
    pressure: tuple[tuple[str, int], ...] | None = None

    @property
    def oom_kills(self) -> int | None:
        """How many processes the kernel killed for want of memory."""
        return dict(self.memory_events).get("oom_kill") if self.memory_events else None

    @property
    def pids_refused(self) -> int | None:
        """How often a process was not started because of the limit."""
        return dict(self.pids_events).get("max") if self.pids_events else None

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {name: dict(value) if isinstance(value, tuple) else value for name, value in self}


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


def _table(text: str, names: tuple[str, ...] | None = None) -> tuple[tuple[str, int], ...] | None:
    rows = [line.split() for line in text.splitlines()]
    found = [(row[0], int(row[1])) for row in rows if len(row) == 2 and row[1].isdecimal()]
    return tuple(row for row in found if names is None or row[0] in names) or None


def _io(text: str) -> tuple[tuple[str, int], ...]:
    sums = dict.fromkeys(_IO, 0)
    for line in text.splitlines():
        for word in line.split()[1:]:
            name, _, value = word.partition("=")
            if name in sums and value.isdecimal():
                sums[name] += int(value)
    return tuple(sums.items())


def _waited(text: str) -> int | None:
    """The total of the line "some avg10=… total=N"."""
    some = text.partition("\n")[0]
    return _number(some.rpartition("total=")[2]) if some.startswith("some") else None


def read_account(group: Group) -> Account:
    """Read everything; files that are not there give None."""
    return _account(group.read)


def parse_account(data: bytes) -> Account | None:
    """What the launcher of a detached sandbox has copied: of each file its name, its length in
    bytes and its content. None where there was no group."""
    files: dict[str, str] = {}
    while data:
        head, _, rest = data.partition(b"\n")
        name, _, length = head.decode("ascii", "replace").partition(" ")
        if not length.isdecimal():
            break
        files[name] = rest[: int(length)].decode("ascii", "replace")
        data = rest[int(length) :]
    return _account(lambda name: files.get(name, "")) if files else None


def _account(read: Callable[[str], str]) -> Account:
    controllers = read("cgroup.controllers").split()
    waited = [(name, _waited(read(f"{name}.pressure"))) for name in ("cpu", "memory", "io")]
    return Account(
        memory_peak_bytes=_number(read("memory.peak")),
        memory_events=_table(read("memory.events")),
        pids_peak=_number(read("pids.peak")),
        pids_events=_table(read("pids.events")),
        cpu=_table(read("cpu.stat"), _CPU),
        io=_io(read("io.stat")) if "io" in controllers else None,
        pressure=tuple((name, us) for name, us in waited if us is not None) or None,
    )

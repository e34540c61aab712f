"""What a kept sandbox's launcher wrote down: its records, and from them state and report.

Owns the file `events`: entries of { u64 ns since the epoch, one event record }; and `execs`, the
same of commands that joined it, written by who started them, the latest ones alone.
"""

from __future__ import annotations

import os
import struct
import time

from sandbox.launcher import events
from sandbox.record import Record
from sandbox.runtime.keeper import FREEZE, THAW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from sandbox.launcher.events import Event
    from sandbox.runtime.registry import Folder

    State = Literal["created", "running", "paused", "restarting", "exited", "dead"]

_TIME = struct.Struct("<Q")
ENTRY_BYTES = _TIME.size + events.RECORD_BYTES


# With which a life can begin: the launcher's word may come after those of a quick command.
_FIRST = (events.STARTED, events.RUNNING, events.EXITED)
_EXECS_BYTES = 256 << 10


class Moment(Record):
    """One record and when it came, in seconds since the epoch."""

    at_s: float
    event: Event


class History(Record):
    """A sandbox's life so far.

    `state`: dead = it ended without its launcher being able to say how. `status` is the
    payload's last raw wait status, None while unknown. `starts` counts starts, so that one
    more than restarts.
    """

    state: State
    moments: tuple[Moment, ...]
    starts: int
    status: int | None
    started_s: float
    ended_s: float
    timed_out: bool

    @property
    def exit_code(self) -> int | None:
        """What `sbx wait` ends with: as that of `sbx run`."""
        if self.timed_out:
            return 124
        if self.status is None:
            return 137 if self.state == "dead" else None
        if os.WIFSIGNALED(self.status):
            return 128 + os.WTERMSIG(self.status)
        return os.WEXITSTATUS(self.status)


def moments(data: bytes) -> tuple[Moment, ...]:
    """Decode the records; an incomplete last one (a full disk) is left out."""
    found = []
    for at in range(0, len(data) - ENTRY_BYTES + 1, ENTRY_BYTES):
        (nanoseconds,) = _TIME.unpack_from(data, at)
        event = events.decode(data[at + _TIME.size : at + ENTRY_BYTES])
        if event is not None:
            found.append(Moment(nanoseconds / 1e9, event))
    return tuple(found)


def note_exec(folder: Folder, event: Event) -> None:
    """Write down that a command joins (RUNNING) or has ended (DONE), for those who watch.

    Nothing depends on it: where it cannot be written it is not told.
    """
    entry = _TIME.pack(time.time_ns()) + events.encode(event)
    try:
        fd = folder.open("execs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            if os.fstat(fd).st_size > _EXECS_BYTES:
                os.ftruncate(fd, 0)
            os.write(fd, entry)
        finally:
            os.close(fd)
    except OSError:
        return


def last_life(found: tuple[Moment, ...]) -> tuple[Moment, ...]:
    """The records since the last start."""
    begin, ended = 0, False
    for at, moment in enumerate(found):
        if ended and moment.event.kind in _FIRST:
            begin, ended = at, False
        ended = ended or moment.event.kind == events.DONE
    return found[begin:]


def read_history(folder: Folder) -> History:
    """The life of one sandbox as its folder tells it. Raises SetupError for a damaged file."""
    alive = folder.lives()  # first: what is read afterwards is complete when it was dead
    return conclude(moments(folder.read("events")), alive=alive)


def conclude(found: tuple[Moment, ...], *, alive: bool) -> History:
    """The life that these records tell of, of a sandbox that is alive or not."""
    status: int | None = None
    starts, started, ended, paused, timed_out, state = 0, 0.0, 0.0, False, False, "created"
    for moment in found:
        kind, event = moment.event.kind, moment.event
        if ended and kind in _FIRST:
            ended, status, paused, state = 0.0, None, False, "created"
        if kind == events.STARTED:
            starts, started = starts + 1, moment.at_s
        elif kind == events.RUNNING:
            state = "running"
        elif kind == events.ORDER and event.status in (FREEZE, THAW):
            paused = event.status == FREEZE
        elif kind == events.LIMIT:
            timed_out = True
        elif kind == events.EXITED:
            status = event.status
        elif kind == events.DONE:
            ended, state = moment.at_s, "restarting"
            status = event.status if status is None else status
    if not alive:
        state = "exited" if ended else "dead"
    elif state == "running" and paused:
        state = "paused"
    return History(state, found, starts, status, started, ended, timed_out)  # type: ignore[arg-type]

"""What happens to the sandboxes of this user, one thing after the other, without a daemon.

Everything comes from their folders: what their launchers wrote down, and that folders come, go
and change their names. What was in a folder is known as long as the folder is there.
"""

from __future__ import annotations

import os
import select
import time

from sandbox.errors import EXIT_TIMEOUT, SbxError
from sandbox.launcher import events
from sandbox.linux import inotify
from sandbox.linux.paths import private_dir, state_dir
from sandbox.record import Record
from sandbox.runtime.following import Ending
from sandbox.runtime.history import ENTRY_BYTES, moments
from sandbox.runtime.keeper import FREEZE, THAW
from sandbox.runtime.registry import everyone
from sandbox.runtime.signals import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

    from sandbox.runtime.history import Moment
    from sandbox.runtime.registry import Folder
else:  # the module `signal` would import enum
    import _signal as signal


class Happening(Record):
    """One thing that happened to a sandbox, in seconds since the epoch.

    `action`: create, start, kill, stop, die, pause, unpause, rename, destroy, and of further
    commands exec_start, exec_die. `more` holds further facts: signal, exit_code, old_name,
    exec_id, command.
    """

    at_s: float
    action: str
    id: str
    name: str
    rootfs: str
    more: tuple[tuple[str, object], ...] = ()


class _Known:
    """One sandbox as it was seen last; its records can be read after its folder is gone."""

    def __init__(self, folder: Folder) -> None:
        self.description = folder.description
        self._records = self._execs = -1
        self._read = self._execs_read = 0
        self._runs = self._asked = self._timed_out = self._dead = False
        self.ending: Ending | None = None

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to open."""
        return all(self.opened) and (self._dead or self.ending is not None)

    @property
    def opened(self) -> tuple[bool, bool]:
        """Whether its records, and those of commands that joined, were there."""
        return self._records >= 0, self._execs >= 0

    def see(self, folder: Folder) -> Iterator[Happening]:
        """What happened since the last look; `folder` is how it is now."""
        before, self.description = self.description, folder.description
        if before.name != self.description.name:
            yield self.happened(time.time(), "rename", old_name=before.name)
        if self._records < 0:
            try:
                self._records = folder.open("events")
            except FileNotFoundError:
                return
        if self._execs < 0:
            try:
                self._execs = folder.open("execs")
            except FileNotFoundError:
                pass
        if self.ending is None and self.description.pid and not self._dead:
            self.ending = Ending(folder)
        yield from self.news()

    def news(self) -> Iterator[Happening]:
        """What its launcher has written down since the last look, and its end."""
        ended = self.ending is not None and self.ending.ended()  # before the reading
        found, self._read = _entries(self._records, self._read)
        for moment in found:
            yield from self._told(moment)
        found, self._execs_read = _entries(self._execs, self._execs_read)
        for moment in found:
            yield self._exec_told(moment)
        if ended and self.ending:
            self._dead = True
            self.ending.close()
            self.ending = None
            if self._runs:  # its launcher was killed
                yield self._died(os.fstat(self._records).st_mtime, 128 + signal.SIGKILL)

    def _told(self, moment: Moment) -> Iterator[Happening]:
        event, at_s = moment.event, moment.at_s
        if event.kind == events.RUNNING:
            self._runs, self._asked = True, False
            yield self.happened(at_s, "start")
        elif event.kind == events.ORDER and event.status in (FREEZE, THAW):
            yield self.happened(at_s, "pause" if event.status == FREEZE else "unpause")
        elif event.kind == events.ORDER:
            self._asked = self._asked or event.status == signal.SIGTERM
            yield self.happened(at_s, "kill", signal=signal_name(event.status))
        elif event.kind == events.LIMIT:
            self._timed_out = True
        elif event.kind == events.DONE and self._runs:
            status = event.status
            killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            code = 128 + killed if killed else os.WEXITSTATUS(status)
            yield self._died(at_s, EXIT_TIMEOUT if self._timed_out else code)
            if self._asked:
                yield self.happened(at_s, "stop")

    def _exec_told(self, moment: Moment) -> Happening:
        identity, _, line = moment.event.text.partition(" ")
        if moment.event.kind == events.RUNNING:
            return self.happened(moment.at_s, "exec_start", exec_id=identity, command=line)
        code = os.WEXITSTATUS(moment.event.status)
        return self.happened(moment.at_s, "exec_die", exec_id=identity, exit_code=code)

    def _died(self, at_s: float, exit_code: int) -> Happening:
        self._runs = False
        return self.happened(at_s, "die", exit_code=exit_code)

    def happened(self, at_s: float, action: str, **more: object) -> Happening:
        """Something that happened to this sandbox."""
        known = self.description
        return Happening(at_s, action, known.id, known.name, known.rootfs, tuple(more.items()))

    def close(self) -> None:
        """Look no longer."""
        for fd in (self._records, self._execs):
            if fd >= 0:
                os.close(fd)
        if self.ending:
            self.ending.close()


def _entries(fd: int, start: int) -> tuple[tuple[Moment, ...], int]:
    """The whole entries of a file behind `start`, and where they end; -1 is an empty file."""
    if fd < 0:
        return (), start
    if os.fstat(fd).st_size < start:  # it was begun anew
        start = 0
    data = b""
    while part := os.pread(fd, 1 << 20, start + len(data)):
        data += part
    whole = len(data) - len(data) % ENTRY_BYTES
    try:
        return moments(data[:whole]), start + whole
    except SbxError:  # damaged: what follows is readable again
        return (), start + whole


class Watcher:
    """All sandboxes of this user. `look` tells what is new since the last look."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        base = private_dir(state_dir())
        self._watch = inotify.Watch()
        changes = inotify.CREATE | inotify.MOVED_TO | inotify.DELETE | inotify.MOVED_FROM
        for path in (base, private_dir(f"{base}/names")):
            self._watch.add(path, changes)

    def look(self) -> list[Happening]:
        """What happened since the last look (the first time: all that is known), in order."""
        self._watch.clear()
        found: list[Happening] = []
        present = set()
        for folder in everyone():
            present.add(folder.id)
            found += self._look_at(folder)
            folder.close()
        for identity in [one for one in self._known if one not in present]:
            gone = self._known.pop(identity)
            found += gone.news()
            found.append(gone.happened(time.time(), "destroy"))
            gone.close()
        return sorted(found, key=lambda happening: happening.at_s)

    def _look_at(self, folder: Folder) -> Iterator[Happening]:
        known = self._known.get(folder.id)
        if known is None:
            known = self._known[folder.id] = _Known(folder)
            yield known.happened(folder.description.created_s, "create")
        while not known.complete:
            before = known.opened
            self._follow(folder)
            yield from known.see(folder)
            if known.opened == before:
                return
        yield from known.see(folder)

    def _follow(self, folder: Folder) -> None:
        """Watch the records, and the folder for the time when there are some."""
        folder_mask = inotify.CREATE | inotify.MOVED_TO
        files = (("events", inotify.MODIFY), ("execs", inotify.MODIFY), ("", folder_mask))
        for name, mask in files:
            try:
                self._watch.add(f"/proc/self/fd/{folder.fd}/{name}", mask)
            except FileNotFoundError:
                continue

    def wait(self) -> None:
        """Wait until something may have happened."""
        poller = select.poll()
        poller.register(self._watch.fileno(), select.POLLIN)
        for known in self._known.values():
            if known.ending and known.ending.fd >= 0:
                poller.register(known.ending.fd, select.POLLIN)
        poller.poll()

    def close(self) -> None:
        """Watch no longer."""
        for known in self._known.values():
            known.close()
        self._watch.close()

"""One control group in hand: frozen, thawed, killed, accounted for, removed.

Owns the proof that a folder is ours to remove: a locked record in `state_dir()/cgroups` under the
group's own name, which says where it is and which inode it has. The kernel drops the lock with
the last process that holds it, so a record whose lock is free belongs to nobody.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import select
import time

from sandbox.errors import HostError
from sandbox.linux.paths import private_dir, state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_S = 5.0
_MARSHAL = 4


class Group:
    """The folder at `path`, open as `fd`. `lock` is that of its record, -1 where it has none."""

    def __init__(self, path: str, fd: int, lock: int = -1) -> None:
        self.path = path
        self.fd = fd
        self.lock = lock

    @property
    def inode(self) -> int:
        """What tells it from a later one of the same name."""
        return os.fstat(self.fd).st_ino

    def read(self, file: str) -> str:
        """The content of one of its files, "" when there is none."""
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return ""
        try:
            return os.read(descriptor, 1 << 16).decode("ascii", "replace")
        except OSError:  # ENODEV: it was removed
            return ""
        finally:
            os.close(descriptor)

    def write(self, file: str, value: str) -> None:
        """Write one of its files. Raises OSError."""
        descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    def _event(self, name: str) -> int:
        """A number of cgroup.events; 0 when the group is gone."""
        found = dict(line.split() for line in self.read("cgroup.events").splitlines())
        return int(found.get(name, "0"))

    def _wait(self, name: str, value: int, timeout_s: float) -> bool:
        """Wait until a number of cgroup.events is so; cgroups(7): changes are POLLPRI."""
        end = time.monotonic() + timeout_s
        try:
            events = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return True
        try:
            poller = select.poll()
            poller.register(events, select.POLLPRI)
            while self._event(name) != value:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                os.pread(events, 256, 0)
                if self._event(name) != value:
                    poller.poll(min(left, 0.1) * 1000)
            return True
        finally:
            os.close(events)

    @property
    def populated(self) -> bool:
        """Whether a process lives in it or below."""
        return self._event("populated") == 1

    def freeze(self) -> bool:
        """Stop all processes; False when they have not stopped in time. Raises OSError."""
        self.write("cgroup.freeze", "1")
        return self.wait_frozen()

    def wait_frozen(self) -> bool:
        """Wait until all processes have stopped; False when they have not in time."""
        return self._wait("frozen", 1, _PATIENCE_S)

    def thaw(self) -> None:
        """Let all processes go on. Raises OSError."""
        self.write("cgroup.freeze", "0")
        self._wait("frozen", 0, _PATIENCE_S)

    def kill(self) -> bool:
        """Kill all processes in it; False when some are left."""
        try:
            self.write("cgroup.kill", "1")
        except OSError:  # before Linux 5.14
            self._kill_one_by_one()
        return self._wait("populated", 0, _PATIENCE_S)

    def _kill_one_by_one(self) -> None:
        """Frozen, none of them can start another one meanwhile; a kill reaches the frozen too."""
        try:
            self.freeze()
            for word in self.read("cgroup.procs").split():
                try:
                    os.kill(int(word), 9)
                except ProcessLookupError:
                    continue
            self.thaw()
        except OSError:
            return

    def remove(self) -> bool:
        """Kill what is left in it, remove it and its record; False when it stays."""
        if self.populated:
            self.kill()
        gone = _remove_folder(self.path, self.fd)
        if gone and self.lock >= 0:
            _drop_record(os.path.basename(self.path))
        self.release()
        return gone

    def keep(self) -> None:
        """Let go of it, its record locked as long as this process, which is in it, lives."""
        os.close(self.fd)

    def release(self) -> None:
        """Let go of it; it stays as it is."""
        os.close(self.fd)
        if self.lock >= 0:
            os.close(self.lock)


def _remove_folder(path: str, fd: int) -> bool:
    """Remove the folder if it still is the one that is open. What is in its last moments counts
    as there for a while: EBUSY."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if os.stat(path).st_ino != os.fstat(fd).st_ino:
                return True
            os.rmdir(path)
            return True
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() > end:
                return False
            time.sleep(0.002)


def open_group(path: str, inode: int) -> Group:
    """The group of another command's sandbox. Raises HostError when it is not that one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _not_there(path, (error.strerror or "").lower()) from error
    found = os.fstat(fd)
    if found.st_ino != inode or found.st_uid != os.geteuid():
        os.close(fd)
        raise _not_there(path, "another one is there by now")
    return Group(path, fd)


def _not_there(path: str, cause: str) -> HostError:
    return HostError(
        f"cannot use the control group {path}", cause=cause, hint="the sandbox has ended: sbx ps -a"
    )


# ---- records -------------------------------------------------------------------------------


def _records() -> str:
    return f"{state_dir()}/cgroups"


def _drop_record(name: str) -> None:
    try:
        os.unlink(f"{_records()}/{name}")
    except OSError:
        return


def _write_record(lock: int, path: str, inode: int) -> None:
    os.pwrite(lock, marshal.dumps((path, inode), _MARSHAL), 0)


class Claim:
    """A name that no other run takes, with its locked record."""

    def __init__(self, name: str, lock: int) -> None:
        self.name = name
        self.lock = lock

    def drop(self) -> None:
        """Give it back unused."""
        _drop_record(self.name)
        os.close(self.lock)


def claim_name(prefix: str = "") -> Claim:
    """Claim the name of a new group. Raises HostError."""
    folder = private_dir(_records())
    while True:
        name = f"{prefix}sbx-{os.urandom(6).hex()}"
        record = f"{folder}/{name}"
        try:
            lock = os.open(
                f"{record}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise _cannot_make(record, error) from error
        try:
            # Without the lock it looks like one without an owner: so not under its own name yet.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(f"{record}.new", record)
            return Claim(name, lock)
        except (BlockingIOError, FileNotFoundError):  # and somebody who reaps took it for that
            os.close(lock)
        except OSError as error:
            os.close(lock)
            raise _cannot_make(record, error) from error


def make_folder(path: str, claim: Claim | None = None) -> Group:
    """Make a group; the claim becomes the group's. Raises HostError."""
    try:
        if claim:
            _write_record(claim.lock, path, 0)
        os.mkdir(path, 0o755)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if claim:
            _write_record(claim.lock, path, os.fstat(fd).st_ino)
    except OSError as error:
        raise _cannot_make(path, error) from error
    return Group(path, fd, claim.lock if claim else -1)


def _cannot_make(path: str, error: OSError) -> HostError:
    return HostError(
        f"cannot make the control group {path}",
        cause=(error.strerror or "").lower(),
        hint='see "sbx doctor", or use resources.driver = "none"',
    )


def reap_groups(told: Callable[[str], None]) -> None:
    """Remove the groups of runs that were killed, and nothing that is not provably ours."""
    try:
        names = os.listdir(_records())
    except OSError:
        return
    for name in names:
        path = f"{_records()}/{name}"
        try:
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _reap(name, os.pread(lock, 1 << 12, 0), told)
        except OSError:  # locked: it lives
            continue
        finally:
            os.close(lock)


def _reap(name: str, record: bytes, told: Callable[[str], None]) -> None:
    try:
        path, inode = marshal.loads(record)  # noqa: S302 (a folder that is ours alone)
    except (ValueError, EOFError, TypeError):  # killed before there was a group
        _drop_record(name)
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # there is no such folder
            _drop_record(name)
        return
    found = os.fstat(fd)
    group = Group(path, fd)
    # Inode 0: it was killed between the making and the second writing.
    ours = found.st_uid == os.geteuid() and inode in (0, found.st_ino)
    if not ours or os.path.basename(path) != name:
        group.release()
        _drop_record(name)
    elif group.remove():
        _drop_record(name)
        told(path)

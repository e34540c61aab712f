"""Start the launcher: descriptors in their fixed places, nothing else handed over.

Owns the pipes, the channel and the process until the supervisor takes them. posix_spawn is
vfork-like, so that a large or threaded caller pays nothing for its size and no Python code runs
between fork and exec. Every descriptor of ours is moved to 110 or above first: then no fixed
target can overwrite a source, even in a caller that has 0, 1 and 2 closed.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct

from sandbox.errors import HostError, SetupError, UsageError
from sandbox.launcher.image import seal_bytes, seal_program
from sandbox.linux.paths import native
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
else:  # the module `signal` would import enum
    import _signal as signal

FD_PLAN, FD_CHANNEL, FD_OWNER, FD_CONTROL, FD_FOLDER = 100, 101, 102, 107, 108
FD_RESERVED = range(100, 110)
FIRST_PRIVATE = 110


class Program(Record):
    """What is executed in the launcher's place; `path` None is the sealed native launcher."""

    path: str | None = None
    argv: tuple[str, ...] = ("init",)


class Kept(Record):
    """What a kept sandbox's launcher holds: the listening `control` socket, the `folder`, and
    locked files, `held`, which keep their numbers. `detached`: it gets no streams, and no owner
    unless it is `owned`: then it dies with this process.
    """

    control: int
    folder: int
    held: tuple[int, ...]
    detached: bool
    owned: bool = False


def private_copy(fd: int) -> int:
    """A close-on-exec copy of `fd` at a number that is no place of the launcher's.

    Raises HostError when RLIMIT_NOFILE leaves none.
    """
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EMFILE):
            raise
        raise _too_few_descriptors() from error


class Descriptors:
    """Descriptors that are closed together unless they were given away before."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def keep(self, fd: int) -> int:
        """Own `fd` from now on."""
        self._open.append(fd)
        return fd

    def move(self, fd: int) -> int:
        """Own a copy of `fd` at a private number; `fd` itself is closed."""
        try:
            return self.copy(fd)
        finally:
            os.close(fd)

    def copy(self, fd: int) -> int:
        """Own a close-on-exec copy of `fd` at a private number."""
        return self.keep(private_copy(fd))

    def give(self, fd: int) -> int:
        """Stop owning `fd`."""
        self._open.remove(fd)
        return fd

    def close(self, fd: int) -> None:
        """Close one owned descriptor now."""
        os.close(self.give(fd))

    def close_all(self) -> None:
        """Close whatever is still owned."""
        while self._open:
            os.close(self._open.pop())


class Launched:
    """A started launcher: its pid, pidfd, channel, and our ends of the payload's stdio.

    `stdin`, `stdout`, `stderr` do not block; `stderr` is -1 when it was merged into stdout.
    `held` owns all of them.
    """

    __slots__ = ("channel", "held", "pid", "pidfd", "stderr", "stdin", "stdout")

    def __init__(self, held: Descriptors, channel: _socket.socket) -> None:
        self.held = held
        self.channel = channel
        self.pid = 0
        self.pidfd = self.stdin = self.stdout = self.stderr = -1

    def let_go(self) -> None:
        """The launcher has nothing left to wait for (main.c, leave_cgroup)."""
        try:
            self.channel.send(b"\0", _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
        except OSError:
            return

    def close(self) -> None:
        """Close the channel and every descriptor; a launcher that still lives then dies."""
        self.channel.close()
        self.held.close_all()


def launch(
    plan: bytes,
    *,
    program: Program | None = None,
    pass_fds: tuple[int, ...] = (),
    merge_stderr: bool = False,
    kept: Kept | None = None,
    namespaces: Mapping[int, int] | None = None,
    cgroup: Callable[[int], tuple[str, int]] | None = None,
    silent: bool = False,
) -> Launched:
    """Start the launcher with `plan`; `pass_fds` keep their numbers inside. `namespaces`: those
    of the sandbox that the plan joins or shares with, by place. `cgroup` gets the launcher's pid
    and returns the name and directory of the control group, for which the launcher waits.
    `silent`: the payload's streams are /dev/null.

    Safe in threads: every descriptor is close-on-exec, no global state is touched. Raises
    SetupError, HostError when RLIMIT_NOFILE is too low, UsageError for a bad `pass_fds`.
    """
    check_pass_fds(pass_fds)
    child, ours = Descriptors(), Descriptors()
    launched: Launched | None = None
    try:
        channel, far = _channel(child)
        launched = Launched(ours, channel)
        if silent or (kept and kept.detached):
            null = child.move(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            places = dict.fromkeys((0, 1, 2), null)
        else:
            places = _connect(launched, child, merge_stderr=merge_stderr)
        if not kept or kept.owned or not kept.detached:
            places[FD_OWNER] = child.move(_own_pidfd())
        places |= {FD_PLAN: child.move(seal_bytes("plan", plan)), FD_CHANNEL: far}
        if kept:
            places |= {FD_CONTROL: child.copy(kept.control), FD_FOLDER: child.copy(kept.folder)}
        actions = [(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in places.items()]
        actions += [
            (os.POSIX_SPAWN_DUP2, fd, fd) for fd in (*pass_fds, *(kept.held if kept else ()))
        ]
        path, argv = _locate(child, program or Program())
        launched.pid = os.posix_spawn(
            path,
            argv,
            {},
            file_actions=actions,
            setsigmask=(),
            # All of them: Python ignores SIGPIPE, and ignored signals survive an exec.
            setsigdef=signal.valid_signals(),
        )
        launched.pidfd = _open_pidfd(ours, launched.pid)
        if cgroup is not None:
            name, folder = cgroup(launched.pid)
            send_with(channel, os.fsencode(name), (folder,))
        if namespaces is not None:
            send_with(channel, bytes(namespaces), tuple(namespaces.values()))
        return launched
    except BaseException as error:
        if launched:
            launched.channel.close()
            if launched.pidfd >= 0:  # it waits for what it will not get, and ends at once
                os.waitid(os.P_PIDFD, launched.pidfd, os.WEXITED)
        ours.close_all()
        if isinstance(error, OSError) and not isinstance(error, SetupError | HostError):
            raise _cannot_start(error) from error
        raise
    finally:
        child.close_all()


def check_pass_fds(pass_fds: tuple[int, ...]) -> None:
    """Raise UsageError listing every descriptor that cannot be passed, with the reason."""
    problems = []
    for fd in pass_fds:
        if fd < 3:
            problems.append(f"{fd}: 0, 1 and 2 are the standard streams")
        elif fd in FD_RESERVED:
            problems.append(f"{fd}: 100 to 109 are reserved for sbx itself")
        elif not _is_open(fd):
            problems.append(f"{fd}: is not open")
    if problems:
        raise UsageError("cannot pass these descriptors", problems=tuple(problems))


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def _channel(child: Descriptors) -> tuple[_socket.socket, int]:
    """A connected pair: our end, and the child's descriptor."""
    kind = _socket.AF_UNIX, _socket.SOCK_SEQPACKET
    near, far = _socket.socketpair(*kind)
    try:
        theirs = child.copy(far.fileno())
        # With the caller's 0, 1 or 2 closed, `near` could be one of them.
        ours = fcntl.fcntl(near, fcntl.F_DUPFD_CLOEXEC, 3)
        return _socket.socket(*kind, 0, ours), theirs
    finally:
        near.close()
        far.close()


def send_with(channel: _socket.socket, data: bytes, fds: Sequence[int], flags: int = 0) -> None:
    """Send a message with descriptors. Raises OSError.

    What a user has in flight, in all processes together, is held against the sender's soft limit
    of open files (unix(7), ETOOMANYREFS): a payload with the caller's id can have taken as many.
    """
    packed = struct.pack(f"{len(fds)}i", *fds)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if fds else []
    try:
        channel.sendmsg([data], rights, flags)
    except OSError as error:
        if error.errno != errno.ETOOMANYREFS:
            raise
        from resource import RLIMIT_NOFILE, getrlimit, setrlimit

        had = getrlimit(RLIMIT_NOFILE)
        setrlimit(RLIMIT_NOFILE, (had[1], had[1]))
        try:
            channel.sendmsg([data], rights, flags)
        finally:
            setrlimit(RLIMIT_NOFILE, had)


def _connect(launched: Launched, child: Descriptors, *, merge_stderr: bool) -> dict[int, int]:
    """Make the pipes; return the child's ends by the number they get there."""
    ours = launched.held
    stdin, launched.stdin = _pipe(child, ours, ours_writes=True)
    stdout, launched.stdout = _pipe(child, ours, ours_writes=False)
    stderr = stdout
    if not merge_stderr:
        stderr, launched.stderr = _pipe(child, ours, ours_writes=False)
    return {0: stdin, 1: stdout, 2: stderr}


def _pipe(child: Descriptors, ours: Descriptors, *, ours_writes: bool) -> tuple[int, int]:
    reading, writing = os.pipe()
    theirs, kept = (reading, writing) if ours_writes else (writing, reading)
    try:
        theirs = child.move(theirs)
    except BaseException:
        os.close(kept)
        raise
    kept = ours.move(kept)
    # Each end of a pipe has flags of its own: the payload's end stays blocking.
    os.set_blocking(kept, False)
    return theirs, kept


def _locate(child: Descriptors, program: Program) -> tuple[str, list[str]]:
    if program.path is not None:
        return program.path, list(program.argv)
    image = child.move(seal_program(native("sbx-launcher")))
    # Resolved in the child, where close-on-exec has not acted yet.
    return f"/proc/self/fd/{image}", list(program.argv)


def _own_pidfd() -> int:
    try:
        return os.pidfd_open(os.getpid())
    except OSError as error:
        raise OSError(error.errno, error.strerror, "pidfd_open") from None


def _open_pidfd(ours: Descriptors, pid: int) -> int:
    """A pidfd of our child, or -1 when somebody else has already reaped it (SIGCHLD ignored)."""
    try:
        return ours.move(os.pidfd_open(pid))
    except ProcessLookupError:
        return -1


def _too_few_descriptors() -> HostError:
    return HostError(
        "cannot keep enough files open",
        cause=f"the limit of open files (RLIMIT_NOFILE) leaves no number from {FIRST_PRIVATE} on",
        hint="raise it for this shell, for example with: ulimit -n 1024",
    )


def _cannot_start(error: OSError) -> SetupError | HostError:
    if error.errno == errno.EMFILE:
        return _too_few_descriptors()
    hints = {
        errno.EAGAIN: "the limit of processes is reached: see ulimit -u",
        errno.ENOENT: "/proc must be mounted",
        errno.EACCES: "sysctl vm.memfd_noexec must be below 2 for programs in memory",
    }
    cause = (error.strerror or str(error)).lower()
    hint = hints.get(error.errno or 0, "")
    if error.errno in {errno.ENOSYS, errno.EPERM}:
        from sandbox.host.userns import explain_refused_call

        reason, hint = explain_refused_call(error.errno)
        # C libraries start processes by clone3(2), and by clone(2) only where that is ENOSYS.
        call = {None: "", "pidfd_open": "pidfd_open: "}.get(error.filename, "clone3: ")
        cause = call + cause + (f" ({reason})" if reason else "")
    return SetupError("cannot start the launcher", cause=cause, hint=hint, errno=error.errno or 0)

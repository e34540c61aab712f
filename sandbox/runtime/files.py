"""Files of a living sandbox: read, written and copied while it runs, and nothing of it is run.

Owns the caller's side. What touches the sandbox's tree is a process in the sandbox's own user
namespaces (`inside`); what touches the caller's tree is this one. Between them go tar streams.
"""

from __future__ import annotations

import _socket
import errno
import marshal
import os
import stat
import sys

from sandbox.errors import (
    SandboxFileError,
    SandboxFileNotFound,
    SandboxIsADirectory,
    SandboxNotADirectory,
    SandboxPermissionError,
    SbxError,
    StateError,
)
from sandbox.host.accounts import find_account
from sandbox.launcher.spawn import send_with
from sandbox.plan import ops
from sandbox.plan.wire import decode
from sandbox.policy.model import NO_MAP
from sandbox.runtime import archive, keeper
from sandbox.runtime.archive import Bounds, Guard, Pipe, Tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    from sandbox.runtime.registry import Folder

    # Works on our end of a pipe with content.
    Work = Callable[[Pipe, Tally], None]
else:
    import _signal as signal

__all__ = ["Bounds", "Files", "copy_in", "copy_out", "read_file", "write_file"]

_START = (
    "import os, sys; sys.path.insert(0, sys.argv[1]); "
    "from sandbox.runtime.inside import main; os._exit(main())"
)
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_ANSWER_BYTES = 1 << 16
_WORDS_BYTES = 4000
_KINDS = {
    errno.ENOENT: SandboxFileNotFound,
    errno.EISDIR: SandboxIsADirectory,
    errno.ENOTDIR: SandboxNotADirectory,
    errno.EACCES: SandboxPermissionError,
    errno.EPERM: SandboxPermissionError,
}


def _error(what: str, number: int, cause: str) -> SandboxFileError:
    kind = _KINDS.get(number, SandboxFileError)
    return kind(what, cause=(cause or os.strerror(number)).lower(), errno=number)


class Files:
    """The files of one living sandbox. Good for many operations, one at a time; close it.

    `bounds` are the most that one operation takes. Every method raises SandboxFileError (which is
    the OSError that fits) and StateError when the sandbox is not running; paths that are not
    absolute begin at its root.
    """

    def __init__(self, folder: Folder, bounds: Bounds | None = None) -> None:
        """Start the process that works inside. Raises StateError, SbxError."""
        if folder.description.identity == NO_MAP:
            raise StateError(
                f"cannot copy files of sandbox {folder.name}",
                cause="it has no user namespace: nothing would keep a copy to its own rights",
                hint="bind a folder with -v, or use tar with sbx exec",
            )
        self._folder = folder
        self._bounds = bounds or Bounds()
        self._pid = 0
        self._notes: list[str] = []
        with keeper.Keeper(folder) as kept:
            namespaces = kept.namespaces()
        self._root = os.dup(namespaces[keeper.ROOT])
        self._control, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._words = os.memfd_create("words", os.MFD_CLOEXEC)
        try:
            self._start(far)
            self._send(b"", namespaces[keeper.ROOT], namespaces[keeper.INNER])
        except BaseException:
            self.close()
            raise
        finally:
            far.close()
            keeper.close_all(namespaces.values())

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process inside; what it had half made is gone."""
        if self._root < 0:
            return
        self._control.close()
        os.close(self._root)
        os.close(self._words)
        self._root = -1
        if self._pid:
            try:
                os.waitpid(self._pid, 0)
            except ChildProcessError:  # the caller's program reaps by itself
                pass

    def _start(self, far: _socket.socket) -> None:
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        python = sys.executable or "/usr/bin/python3"
        argv = [python, "-I", "-S", "-c", _START, package]
        actions = [
            (os.POSIX_SPAWN_DUP2, far.fileno(), 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, self._words, 2),
        ]
        # Of its own group: a keyboard's signal is for us, and our end is what it ends with.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._pid = os.posix_spawn(
                python,
                argv,
                _ENVIRONMENT,
                file_actions=actions,
                setpgroup=0,
                setsigmask=(),
                setsigdef=(signal.SIGINT,),
            )
        except OSError as error:
            cause = (error.strerror or "").lower()
            raise SbxError(f"cannot start {python}", cause=cause) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    # ---- requests ----

    def _send(self, data: bytes, *fds: int) -> None:
        try:
            send_with(self._control, data or b"\0", fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._broken() from error

    def _broken(self) -> SbxError:
        words = os.pread(self._words, _WORDS_BYTES, 0).decode("utf-8", "replace").strip()
        return SbxError(
            f"cannot reach the files of sandbox {self._folder.name}",
            cause=words.rpartition("\n")[2] or "the process that works inside has ended",
        )

    def _ask(self, what: str, fields: dict[str, object], *fds: int) -> object:
        self._begin(fields, *fds)
        return self._end(what)

    def _begin(self, fields: dict[str, object], *fds: int) -> None:
        if not self._folder.lives():
            raise StateError(
                f"sandbox {self._folder.name} is not running",
                cause="its files ended with it",
                hint=f"see how it ended with: sbx inspect {self._folder.id}",
            )
        bounds = self._bounds
        whole = {"bounds": (bounds.bytes, bounds.entries, bounds.depth), **fields}
        self._send(marshal.dumps(whole), *fds)

    def _end(self, what: str) -> object:
        try:
            data = self._control.recv(_ANSWER_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            raise self._broken()
        answer = marshal.loads(data)  # noqa: S302 (from our own process)
        if "errno" in answer:
            cause = answer["cause"] or os.strerror(answer["errno"])
            name = answer["name"]
            if name and not what.endswith(name):
                cause = f"{name}: {cause}"
            raise _error(what, answer["errno"], cause)
        self._notes += answer["notes"]
        return answer["value"]

    def _stream(self, what: str, fields: dict[str, object], work: Work, *, out: bool) -> None:
        """Have a request done with a pipe whose other end `work` reads (`out`) or writes."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        theirs, ours = (writing, reading) if out else (reading, writing)
        tally = Tally(self._bounds)
        failed: OSError | None = None
        try:
            try:
                self._begin(fields, theirs)
            finally:
                os.close(theirs)
            try:
                work(Pipe(ours), tally)
            except OSError as error:
                failed = error
        finally:
            os.close(ours)
        try:
            self._end(what)
        except SandboxFileError as error:
            # Whichever side failed first, the other one sees but a broken stream.
            if failed is None or (error.errno != errno.EPIPE and failed.errno == errno.EPIPE):
                raise
            if out and failed.errno == errno.EINVAL:
                raise
        if failed is not None:
            name = failed.filename if isinstance(failed.filename, str) else ""
            cause = failed.strerror or str(failed)
            raise _error(what, failed.errno or errno.EIO, f"{name}: {cause}" if name else cause)
        self._notes += tally.notes

    def notes(self) -> list[str]:
        """What was left out of the operations so far, and why, a line each; then none."""
        notes, self._notes = self._notes, []
        return notes

    # ---- operations ----

    def mode(self, path: str, *, follow: bool = True) -> int:
        """The file type and mode (st_mode) of `path`, 0 when there is nothing."""
        what = f"cannot look at {path}"
        try:
            mode = self._ask(what, {"do": "stat", "path": path, "follow": follow})
            return mode if isinstance(mode, int) else 0
        except SandboxFileNotFound:
            return 0

    def read(self, path: str) -> bytes:
        """The content of a regular file."""
        parts: list[bytes] = []

        def collect(file: Pipe, _: Tally) -> None:
            while part := file.read(1 << 16):
                parts.append(part)

        self._stream(f"cannot read {path}", {"do": "read", "path": path}, collect, out=True)
        return b"".join(parts)

    def write(self, path: str, data: bytes, mode: int = 0o644, user: str | None = None) -> None:
        """Make or replace a file, whole or not at all, for `user` (USER[:GROUP], None: the
        sandbox's own). A link is followed inside; its folder must be there."""

        def send(file: Pipe, _: Tally) -> None:
            file.write(data)

        fields = {"do": "write", "path": path, "mode": mode, "owner": self._owner(user)}
        self._stream(f"cannot write {path}", fields, send, out=False)

    def pack(self, path: str, out: int, *, follow: bool = False) -> None:
        """Write `path` as a tar stream to descriptor `out`, under its last component."""
        fields = {"do": "pack", "path": path, "name": _last(path), "follow": follow}
        self._ask(f"cannot copy {path}", fields, out)

    def unpack(self, source: int, path: str, *, keep_owners: bool = False) -> None:
        """Unpack the tar stream that descriptor `source` gives into folder `path`."""
        self._ask(f"cannot copy to {path}", self._unpacking(path, True, keep_owners), source)

    def copy_out(self, path: str, destination: str, *, follow: bool = False) -> None:
        """Copy a file or a tree to the caller's `destination`: into it when it is a folder, else
        under that name. Links are copied as such, one at `path` followed when asked for."""
        what = f"cannot copy {path} to {destination}"
        mode = self.mode(path, follow=follow)
        folder, top = _host_place(what, destination, is_folder=stat.S_ISDIR(mode))
        try:
            at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _error(what, error.errno or errno.EIO, error.strerror or "") from error
        name = _last(path) if top is None else top
        fields = {"do": "pack", "path": path, "name": name, "follow": follow}

        def receive(file: Pipe, tally: Tally) -> None:
            archive.unpack(file, at, tally, Guard(), top=top)
            while file.read(1 << 16):
                pass

        try:
            self._stream(what, fields, receive, out=True)
        finally:
            os.close(at)

    def copy_in(
        self, source: str, path: str, *, follow: bool = False, keep_owners: bool = False
    ) -> None:
        """Copy the caller's file or tree `source` into the sandbox: into `path` when that is a
        folder, else under that name. The copy belongs to the sandbox's own user."""
        what = f"cannot copy {source} to {path}"
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow or source.endswith("/") else os.O_NOFOLLOW)
        try:
            handle = os.open(source, flags)
        except OSError as error:
            raise _error(what, error.errno or errno.EIO, error.strerror or "") from error
        try:
            into = stat.S_ISDIR(self.mode(path))
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            if not into and path.endswith("/") and not is_folder:
                raise _error(what, errno.ENOENT, f"there is no folder {path}")
            name = _last(source) if into else "copy"

            def send(file: Pipe, tally: Tally) -> None:
                archive.pack(handle, name, file, tally, Guard())

            self._stream(what, self._unpacking(path, into, keep_owners), send, out=False)
        finally:
            os.close(handle)

    def _unpacking(self, path: str, into: bool, keep_owners: bool) -> dict[str, object]:
        owner = self._owner(None)
        return {
            "do": "unpack",
            "path": path,
            "into": into,
            "archive": keep_owners,
            "owner": owner,
        }

    def _owner(self, user: str | None) -> tuple[int, int]:
        if user is None:
            stored = decode(self._folder.read("plan"))
            ids = next(op for op in stored if isinstance(op, ops.Ids))
            return ids.uid, ids.gid
        name, _, group = user.partition(":")
        account = find_account(f"/proc/self/fd/{self._root}", name, group or None)
        return account.uid, account.uid if account.gid is None else account.gid


def _last(path: str) -> str:
    """The last component, "" for what stands for a folder's content."""
    name = os.path.basename(path.rstrip("/"))
    return "" if name in (".", "..") else name


def _host_place(what: str, destination: str, *, is_folder: bool) -> tuple[str, str | None]:
    """The caller's folder that a copy goes to, and the copy's name there, None: its own."""
    if os.path.isdir(destination):
        return destination, None
    if destination.endswith("/") and not is_folder:
        raise _error(what, errno.ENOENT, f"there is no folder {destination}")
    if is_folder and os.path.lexists(destination):
        raise _error(what, errno.ENOTDIR, f"{destination} is not a folder")
    folder, name = os.path.split(os.path.realpath(destination.rstrip("/")))
    return folder, name


def read_file(folder: Folder, path: str, max_bytes: int = 64 << 20) -> bytes:
    """The content of a regular file of a living sandbox, at most `max_bytes`; see Files."""
    with Files(folder, Bounds(bytes=max_bytes)) as files:
        return files.read(path)


def write_file(
    folder: Folder, path: str, data: bytes, mode: int = 0o644, user: str | None = None
) -> None:
    """Make or replace a file of a living sandbox, whole or not at all; see Files."""
    with Files(folder, Bounds(bytes=max(len(data), 1))) as files:
        files.write(path, data, mode, user)


def copy_out(
    folder: Folder, src: str, dst: str, bounds: Bounds | None = None, *, follow: bool = False
) -> list[str]:
    """Copy a file or tree of a living sandbox to the caller's `dst`; returns what was left out."""
    with Files(folder, bounds) as files:
        files.copy_out(src, dst, follow=follow)
        return files.notes()


def copy_in(
    folder: Folder,
    src: str,
    dst: str,
    bounds: Bounds | None = None,
    *,
    follow: bool = False,
    keep_owners: bool = False,
) -> list[str]:
    """Copy the caller's file or tree into a living sandbox; returns what was left out."""
    with Files(folder, bounds) as files:
        files.copy_in(src, dst, follow=follow, keep_owners=keep_owners)
        return files.notes()

"""The process that reads and writes a living sandbox's files, in an interpreter of its own.

It belongs to the sandbox's user namespaces, so that it has rights over the sandbox's files and over
no others; of the sandbox's mounts it has but a descriptor of the root. Whatever it loads comes from
the host: it never enters the mount namespace. Requests come over a socket, one at a time, with a
descriptor for the content; it ends with that socket.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import marshal
import os
import select
import stat
import sys

from sandbox.host import inroot
from sandbox.runtime import archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any

    Request = dict[str, Any]
else:
    import _signal as signal

_CLONE_NEWUSER = 0x10000000
_MESSAGE_BYTES = 1 << 16
_MEMORY_BYTES = 1 << 30
_LINGER_S = 5.0
# statfs(2): what the kernel makes up. Reading there tells of the host, writing gives orders.
_MADE_UP = {
    0x9FA0: "procfs",
    0x62656572: "sysfs",
    0x27E0EB: "cgroupfs",
    0x63677270: "cgroup2",
    0x1CD1: "devpts",
    0x19800202: "mqueue",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x73636673: "securityfs",
    0xCAFE4A11: "bpf",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _join(namespace: int) -> None:
    """setns(2); the caller owns the namespace's parent and so has all rights in it."""
    if _libc.setns(namespace, _CLONE_NEWUSER) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "user namespace")
    try:
        os.setgroups([])
    except OSError:
        pass  # denied where the map has a single id


def _kind_of(fd: int) -> str:
    """The name of a file system that the kernel makes up, "" for others."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return _MADE_UP.get(
        int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder), ""
    )


def _mount_of(fd: int) -> bytes:
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        return next(line for line in file if line.startswith(b"mnt_id"))


class _Inside(archive.Guard):
    """The sandbox's root, and what of it stays untouched: what the kernel makes up, devices, and
    whatever has been mounted."""

    def __init__(self, root: int) -> None:
        self.root = f"/proc/self/fd/{root}"
        self._devices = self._device_of("/dev")

    def _device_of(self, path: str) -> int:
        try:
            fd = inroot.open_path(self.root, path)
        except OSError:
            return -1
        try:
            own = os.fstat(fd).st_dev
            return own if own != os.stat(self.root).st_dev else -1
        finally:
            os.close(fd)

    def check(self, handle: int) -> None:
        if os.fstat(handle).st_dev == self._devices:
            raise PermissionError(errno.EACCES, "is a folder of devices")
        if name := _kind_of(handle):
            raise PermissionError(errno.EACCES, f"belongs to {name}")

    def check_replace(self, at: int, name: str) -> None:
        """From here a mount point could be replaced: the kernel would take the mount away."""
        self.check(at)
        try:
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        except FileNotFoundError:
            return
        try:
            if _mount_of(found) != _mount_of(at):
                raise OSError(errno.EBUSY, "something is mounted there")
            if stat.S_ISDIR(os.fstat(found).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        finally:
            os.close(found)

    def open(self, path: str, *, follow: bool = True) -> int:
        """An O_PATH descriptor of something that may be touched."""
        handle = inroot.open_path(self.root, path, follow=follow)
        try:
            self.check(handle)
        except BaseException:
            os.close(handle)
            raise
        return handle


# ---- requests ------------------------------------------------------------------------------


def _stat(inside: _Inside, request: Request, _content: int, _tally: archive.Tally) -> object:
    handle = inside.open(request["path"], follow=request["follow"])
    try:
        return os.fstat(handle).st_mode
    finally:
        os.close(handle)


def _read(inside: _Inside, request: Request, content: int, tally: archive.Tally) -> None:
    handle = inside.open(request["path"])
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        fd = archive.reopen(handle, os.O_RDONLY)
    finally:
        os.close(handle)
    try:
        left = os.fstat(fd).st_size
        tally.count(request["path"], left, 0)
        out = archive.Pipe(content)
        while data := os.read(fd, min(left, 1 << 17)):
            left -= len(data)
            out.write(data)
    finally:
        os.close(fd)


def _write(inside: _Inside, request: Request, content: int, tally: archive.Tally) -> None:
    at, name = inroot.open_parent(inside.root, request["path"])

    def read(most: int) -> bytes:
        data = os.read(content, most)
        tally.more(request["path"], len(data))
        return data

    try:
        archive.put_file(
            at, name, read, request["mode"], owner=tuple(request["owner"]), guard=inside
        )
    finally:
        os.close(at)


def _pack(inside: _Inside, request: Request, content: int, tally: archive.Tally) -> None:
    handle = inside.open(request["path"], follow=request["follow"])
    try:
        archive.pack(handle, request["name"], archive.Pipe(content), tally, inside)
    finally:
        os.close(handle)


def _unpack(inside: _Inside, request: Request, content: int, tally: archive.Tally) -> None:
    top = None
    if request["into"]:
        at = inside.open(request["path"])
    else:
        at, top = inroot.open_parent(inside.root, request["path"])
    try:
        inside.check(at)
        owner = tuple(request["owner"])
        archive.unpack(
            archive.Pipe(content),
            at,
            tally,
            inside,
            top=top,
            owner_of=(lambda e: (e.uid, e.gid)) if request["archive"] else (lambda _: owner),
        )
    finally:
        os.close(at)


_REQUESTS: dict[str, Callable[[_Inside, Request, int, archive.Tally], object]] = {
    "stat": _stat,
    "read": _read,
    "write": _write,
    "pack": _pack,
    "unpack": _unpack,
}


def _answer(inside: _Inside, request: Request, content: int) -> dict[str, object]:
    tally = archive.Tally(archive.Bounds(*request["bounds"]))
    try:
        value = _REQUESTS[request["do"]](inside, request, content, tally)
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else ""
        return {"errno": error.errno or errno.EIO, "cause": error.strerror or "", "name": name}
    except (MemoryError, ValueError, OverflowError) as error:
        return {"errno": errno.EINVAL, "cause": str(error) or type(error).__name__, "name": ""}
    return {"value": value, "notes": tally.notes}


def _receive(control: _socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = control.recvmsg(
        _MESSAGE_BYTES, _socket.CMSG_SPACE(8), _socket.MSG_CMSG_CLOEXEC
    )
    fds: list[int] = []
    for _level, _kind, raw in ancillary:
        fds += memoryview(raw)[: len(raw) - len(raw) % 4].cast("i").tolist()
    return data, fds


def _watch(control: int, worker: int) -> int:
    """End `worker` when the other side goes, also in the middle of a request: what is half made
    goes too. A thread of the worker's would count among the sandbox's processes (RLIMIT_NPROC)."""
    death = os.pidfd_open(worker)
    poller = select.poll()
    poller.register(control, 0)
    poller.register(death, select.POLLIN)
    poller.poll()
    poller.unregister(control)
    signal.pidfd_send_signal(death, signal.SIGINT)
    if not poller.poll(_LINGER_S * 1000):
        signal.pidfd_send_signal(death, signal.SIGKILL)
    os.waitpid(worker, 0)
    return 0


def main() -> int:
    """Serve the socket that is descriptor 0, until its end."""
    import resource

    os.closerange(3, 1 << 20)
    os.chdir("/")
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    control = _socket.socket(fileno=0)
    if worker := os.fork():
        return _watch(0, worker)
    _, (root, namespace) = _receive(control)
    _join(namespace)
    os.close(namespace)
    inside = _Inside(root)
    try:
        while True:
            data, fds = _receive(control)
            if not data:
                return 0
            content = fds[0] if fds else -1
            answer = _answer(inside, marshal.loads(data), content)  # noqa: S302 (from our own side)
            if content >= 0:
                os.close(content)
            control.send(marshal.dumps(answer))
    except (KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        return 1

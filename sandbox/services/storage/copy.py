"""The copy of a root file system, for hosts where no overlay can be mounted.

Owns the walk and the two processes that share it; `entries` copies what they find. It runs as
root of a user namespace, started through `mapped`; by hand, printing one JSON object:

    sbx-idmap --uid … --gid … -- python3 -I -S …/copy.py SOURCE TARGET
Names are bytes and only ever used below a descriptor of their directory,
whose identity was checked: no symlink is followed, however the source changes meanwhile.

Processes, since the interpreter's lock would make threads wait for each other at every call. The
walker offers batches of names on a pipe and copies a batch itself when the pipe is full. At the
end it makes the hard links, then gives directories their final state, children first.
"""

from __future__ import annotations

import errno
import gc
import marshal
import os
import sys

if __name__ == "__main__":  # with -I and -S the package is not on the path
    sys.path.insert(0, os.path.abspath(__file__).rsplit("/", 4)[0])

from sandbox.services.storage.entries import CopyStats, EntryCopier
from sandbox.services.storage.tree import Directory, mount_points, open_below

_BATCH = 48
_PACKET = 4096  # PIPE_BUF: a packet of this size is never split
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
_SIGKILL = 9  # importing signal takes as long as copying 100 files


class _Walker:
    """Walks the source, makes the directories, and hands out the names of everything else.

    `queue` is the descriptor to offer batches on, -1 to copy all of them here.
    """

    def __init__(self, copier: EntryCopier, queue: int) -> None:
        self.directories: list[Directory] = []
        self._copier = copier
        self._counts = copier.stats.counts
        self._queue = queue
        self._mounts = mount_points(copier.source)
        found = os.fstat(copier.target)
        self._target = (found.st_dev, found.st_ino)
        self._waiting: list[Directory] = []

    def walk(self) -> None:
        """Visit every directory once. Raises OSError only when the target takes no more."""
        self._waiting.append(Directory(b"", os.fstat(self._copier.source)))
        while self._waiting:
            entry = self._waiting.pop()
            self.directories.append(entry)
            self._counts["directories"] += 1
            if entry.path and entry.path in self._mounts:
                self._counts["mounts_skipped"] += 1
                continue
            try:
                self._visit(entry)
            except OSError as error:
                self._copier.judge(entry.path, error)

    def _visit(self, entry: Directory) -> None:
        try:
            at = open_below(self._copier.source, entry.path, entry.identity)
        except OSError as error:
            if error.errno != errno.EACCES or not self._copier.is_foreign(entry.found):
                raise
            entry.readable = False
            self._copier.stats.note_unreadable(entry.path)
            return
        try:
            to = open_below(self._copier.target, entry.path)
            try:
                names = os.listxattr(at)
                if names:
                    entry.attributes = self._copier.read_attributes(at, names)
                self._scan(entry, at, to)
            finally:
                os.close(to)
        finally:
            os.close(at)

    def _scan(self, entry: Directory, at: int, to: int) -> None:
        files: list[bytes] = []
        others: list[bytes] = []
        prefix = entry.path + b"/" if entry.path else b""
        with os.scandir(at) as entries:
            for found in entries:
                name = os.fsencode(found.name)
                if found.is_dir(follow_symlinks=False):
                    self._enter(Directory(prefix + name, _look(name, at)), name, to)
                elif self._mounts and prefix + name in self._mounts:
                    self._counts["mounts_skipped"] += 1
                else:
                    (files if found.is_file(follow_symlinks=False) else others).append(name)
                    if len(files) + len(others) == _BATCH:
                        self._offer(entry, at, to, files, others)
                        files, others = [], []
        if files or others:
            self._offer(entry, at, to, files, others)

    def _enter(self, entry: Directory, name: bytes, to: int) -> None:
        if entry.identity == self._target:  # the copy lies inside its source
            return
        os.mkdir(name, 0o700, dir_fd=to)
        self._waiting.append(entry)

    def _offer(
        self, entry: Directory, at: int, to: int, files: list[bytes], others: list[bytes]
    ) -> None:
        if self._queue >= 0:
            packet = marshal.dumps((entry.path, entry.identity, files, others))
            try:
                if len(packet) <= _PACKET:
                    os.write(self._queue, packet)
                    return
            except BlockingIOError:
                pass
        self._copier.copy_batch(at, to, entry.path, files, others)


def _look(name: bytes, at: int) -> os.stat_result:
    return os.stat(name, dir_fd=at, follow_symlinks=False)


def _copy_packet(copier: EntryCopier, packet: bytes) -> None:
    """Copy a batch that the walker has offered."""
    folder, identity, files, others = marshal.loads(packet)  # noqa: S302 (from the walker)
    at = to = -1
    try:
        at = open_below(copier.source, folder, identity)
        to = open_below(copier.target, folder)
    except OSError as error:
        copier.judge(folder, error)
    else:
        copier.copy_batch(at, to, folder, files, others)
    finally:
        for descriptor in (at, to):
            if descriptor >= 0:
                os.close(descriptor)


# ---- two processes ----


def _serve(copier: EntryCopier, queue: int, result: int, parent: int) -> None:
    """The second process: copy batches until the queue is at its end, then report."""
    try:
        while packet := os.read(queue, _PACKET):
            if os.getppid() != parent:  # nobody is left who wants the copy
                return
            _copy_packet(copier, packet)
    except OSError:
        pass  # the target is full: judge() noted it, and the walker will find the same
    copier.note_bytes()
    stats = copier.stats
    report = marshal.dumps((stats.counts, stats.problems, stats.closed, copier.linked))
    with open(result, "wb") as file:
        file.write(report)
    os._exit(0)


def _start_second(copier: EntryCopier, queue: tuple[int, int]) -> tuple[int, int]:
    """Returns its pid and the descriptor its report comes from."""
    parent = os.getpid()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(queue[1])
            os.close(read_end)
            _serve(EntryCopier(copier.source, copier.target), queue[0], write_end, parent)
        finally:
            os._exit(1)
    os.close(write_end)
    return pid, read_end


def _join_second(copier: EntryCopier, pid: int, result: int) -> None:
    with open(result, "rb") as file:
        report = file.read()
    _, status = os.waitpid(pid, 0)
    if status or not report:
        copier.stats.note_error(b"", f"the second process ended with wait status {status}")
        return
    counts, problems, closed, linked = marshal.loads(report)  # noqa: S302 (from our own child)
    copier.stats.add(counts, problems, closed)
    copier.linked += linked


def _copy_shared(copier: EntryCopier) -> list[Directory]:
    """Walk and copy together with a second process; returns the directories that were made."""
    from fcntl import fcntl

    queue = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    try:
        fcntl(queue[1], _F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass  # over the user's limit for pipes: then it stays short
    pid, result = _start_second(copier, queue)
    walker = _Walker(copier, queue[1])
    done = False
    try:
        os.set_blocking(queue[1], False)
        walker.walk()
        done = True
    finally:
        # Only without any writer does a reader of the queue come to its end.
        os.close(queue[1])
        if not done:
            os.kill(pid, _SIGKILL)
    try:
        while packet := os.read(queue[0], _PACKET):
            _copy_packet(copier, packet)
    finally:
        os.close(queue[0])
        _join_second(copier, pid, result)
    return walker.directories


def _copy_alone(copier: EntryCopier) -> list[Directory]:
    walker = _Walker(copier, -1)
    walker.walk()
    return walker.directories


def _open_target(target: bytes) -> int:
    os.mkdir(target, 0o700)
    opened = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    # The set-group-id bit or a default ACL of the parent would go down to every file.
    for name in os.listxattr(opened):
        if name.startswith("system.posix_acl_"):
            os.removexattr(opened, name)
    os.fchown(opened, os.geteuid(), os.getegid())
    os.fchmod(opened, 0o700)
    return opened


def copy_tree(source: str, target: str, *, workers: int = 2) -> CopyStats:
    """Copy directory `source` to the new directory `target`, as root of a user namespace.

    Kept: names, types, contents with their holes, hard links within the tree, symlinks, fifos,
    sockets, owners, modes, times (ns) and extended attributes. Left out and counted: device
    nodes and what is mounted below `source`. `workers` is 1 or 2 processes; the umask of this
    process is 0 meanwhile. Failures of entries are in the result; OSError is raised when a
    root cannot be opened or made, and when the target is full. `source` is never written.
    """
    umask = os.umask(0)
    descriptors = []
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptors.append(os.open(os.fsencode(source), flags))
        descriptors.append(_open_target(os.fsencode(target)))
        copier = EntryCopier(*descriptors)
        directories = _copy_shared(copier) if workers > 1 else _copy_alone(copier)
        copier.make_links()
        for entry in reversed(directories):
            copier.finish_directory(entry)
        copier.note_bytes()
        return copier.stats
    finally:
        os.umask(umask)
        for descriptor in descriptors:
            os.close(descriptor)


def main(argv: list[str]) -> int:
    """Copy argv[0] to argv[1] and print the result as JSON; 0 when everything was copied."""
    if len(argv) != 2:
        print("usage: copy.py SOURCE TARGET", file=sys.stderr)
        return 2
    gc.disable()  # a short process that makes no cycles
    try:
        stats = copy_tree(argv[0], argv[1])
    except OSError as error:
        stats = CopyStats()
        stats.note_error(os.fsencode(error.filename or ""), error.strerror or str(error))
    print(stats.as_json(), flush=True)
    return 1 if stats.counts["errors"] else 0


if __name__ == "__main__":
    # Nothing is left to do but to free memory, which the kernel does faster.
    os._exit(main(sys.argv[1:]))

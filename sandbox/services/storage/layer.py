"""Folders of `--persist`: what runs wrote over a root file system, kept for the next one.

Owns the shape of such a folder: `upper` and `work` are overlayfs's, `layer` is a text that says
under which ids and over which root its files were made. Whoever uses one holds its flock: two
overlays on one upper directory have undefined results (kernel: overlayfs.rst).
"""

from __future__ import annotations

import errno
import fcntl
import os

from sandbox.errors import PolicyError, SbxError
from sandbox.linux.paths import cache_dir, config_dir, state_dir
from sandbox.plan.ops import IdMap, InnerUser, RootOverlay, extents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.host.facts import HostFacts
    from sandbox.plan.request import Plan

_MARK = "layer"
_NEW_MARK = "layer.new"
_HEAD = "sbx layer 1"
_MARK_BYTES = 1 << 16
_OTHER = "name an empty folder, or a new one"


class Layer:
    """A folder of `--persist`, locked and looked at; `close` ends the lock."""

    def __init__(self, path: str, fd: int, *, made: bool) -> None:
        self.path = path
        self._fd = fd
        self._made = made

    def share(self) -> int:
        """Another descriptor that holds the lock, the caller's to close."""
        return os.dup(self._fd)

    def record(self, plan: Plan) -> list[tuple[str, str]]:
        """Note the plan's ids and root file system, or compare them with what is noted.

        Returns (what, cause) of what differs and may. Raises SbxError where the same numbers of
        the host are not there again, for files of the layer would belong to nobody, and where the
        plan is for another folder than this one.
        """
        root = _root_of(plan)
        found = os.fstat(self._fd)
        if (root.folder_dev, root.folder_ino) != (found.st_dev, found.st_ino):
            raise SbxError(
                f"cannot use {self.path}",
                cause="another folder is there since it was looked at",
                hint="leave it alone while a run with it starts",
            )
        now = _describe(plan)
        noted = _read_mark(self._fd)
        if not noted:
            self._write("".join(f"{key} {value}\n" for key, value in now.items()))
            return []
        if noted.get("ids") != now["ids"]:
            raise SbxError(
                f"cannot keep changes in {self.path}",
                cause=f"its files were made under the ids {noted.get('ids')}, not {now['ids']}",
                hint="use the same identity.map and subordinate ids, or another folder",
            )
        notes = []
        if noted.get("inside") != now["inside"]:
            cause = "--user or identity.map differ from then"
            notes.append((f"files in {self.path} show other owners than when made", cause))
        if noted.get("root", "").split(" ")[0] != now["root"].split(" ")[0]:
            then = noted.get("root", "").partition(" ")[2]
            notes.append((f"{self.path} was made over another root file system", then))
        return notes

    def _write(self, words: str) -> None:
        """Whole or not at all: a folder without the mark counts as none of ours."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(_NEW_MARK, flags, 0o600, dir_fd=self._fd)
            try:
                os.write(fd, os.fsencode(f"{_HEAD}\n{words}"))
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(_NEW_MARK, _MARK, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            raise _refusal(self.path, (error.strerror or "").lower()) from error
        self._made = False

    def close(self) -> None:
        """End the lock; a folder that was made for nothing goes with it."""
        if self._made:
            try:
                os.rmdir(self.path)
            except OSError:
                pass  # somebody else's by now
        os.close(self._fd)


def _root_of(plan: Plan) -> RootOverlay:
    return next(step.op for step in plan.steps if isinstance(step.op, RootOverlay))


def _describe(plan: Plan) -> dict[str, str]:
    """The words of the mark for this plan."""
    ops = [step.op for step in plan.steps]
    outer = next(op for op in ops if isinstance(op, IdMap))
    inner = next((op for op in ops if isinstance(op, InnerUser)), outer)
    root = _root_of(plan)
    return {
        "ids": f"uid {extents(outer.uids)}, gid {extents(outer.gids)}",
        "inside": f"uid {extents(inner.uids)}, gid {extents(inner.gids)}",
        "root": f"{root.ino} {root.lower}",
    }


def _refusal(path: str, cause: str, hint: str = _OTHER) -> PolicyError:
    return PolicyError(f"cannot keep changes in {path}", cause=cause, hint=hint)


def check_place(path: str, rootfs: str) -> None:
    """Refuse a folder that is, holds or lies in the root file system or a folder of sbx's own.

    What is there already must be empty or a layer. Makes nothing. Raises PolicyError.
    """
    real = os.path.realpath(path)
    places = [(os.path.realpath(rootfs), "the root file system")]
    places += [(os.path.realpath(own), own) for own in (cache_dir(), config_dir(), state_dir())]
    for place, name in places:
        for one, word, other in ((real, "lies in", place), (place, "holds", real)):
            if one == other:
                raise _refusal(path, f"it is {name}")
            if one.startswith(f"{other.rstrip('/')}/"):
                raise _refusal(path, f"it {word} {name}")
    try:
        fd = _open(real)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refusal(path, (error.strerror or "").lower()) from error
    try:
        _check_content(path, fd)
    finally:
        os.close(fd)


def open_layer(path: str, rootfs: str) -> Layer:
    """Make `path` where it is missing, lock it, and make sure that only the caller reaches it.

    It is refused as by `check_place`. Raises PolicyError for what is no layer, SbxError when
    another run uses it.
    """
    check_place(path, rootfs)
    real = os.path.realpath(path)
    made = False
    try:
        try:
            os.mkdir(real, 0o700)
            made = True
        except FileExistsError:
            pass
        fd = _open(real)
    except OSError as error:
        hint = f"make the folder above it: mkdir -p {os.path.dirname(real)}"
        missing = error.errno == errno.ENOENT
        cause = (error.strerror or "").lower()
        raise _refusal(path, cause, hint if missing else _OTHER) from error
    layer = Layer(real, fd, made=made)
    try:
        _lock(path, fd)
        _check_content(path, fd)
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise _refusal(path, f"it belongs to user {found.st_uid}")
        if found.st_mode & 0o077:
            # Set-user-ID programs in it would be the caller's, for everybody on this host.
            os.fchmod(fd, 0o700)
    except BaseException:
        layer.close()
        raise
    return layer


def remove_layer(path: str, facts: HostFacts) -> None:
    """Remove a layer with all it holds, also files of the caller's subordinate ids.

    Raises PolicyError for what is no layer, SbxError when a run uses it or something stays.
    """
    from sandbox.services.storage import remove_tree

    what = f"cannot remove {path}"
    real = os.path.realpath(path)
    try:
        fd = _open(real)
    except OSError as error:
        raise PolicyError(what, cause=(error.strerror or "").lower()) from error
    try:
        if not _read_mark(fd):
            raise PolicyError(what, cause="it is no folder that --persist has made")
        _lock(path, fd)
        remove_tree(real, facts)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(path: str, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        busy = error.errno == errno.EWOULDBLOCK
        cause = "another run uses it" if busy else (error.strerror or "").lower()
        hint = "wait for the end of that run, or name another folder" if busy else _OTHER
        raise SbxError(f"cannot use {path}", cause=cause, hint=hint) from error


def _check_content(path: str, fd: int) -> None:
    names = set(os.listdir(fd))
    # Cut off while it was written, the new mark is all there is.
    if not names <= {_NEW_MARK} and not _read_mark(fd):
        raise _refusal(path, "it is neither empty nor made by --persist")


def _read_mark(fd: int) -> dict[str, str]:
    """The words of the mark, {} where there is none of ours."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        mark = os.open(_MARK, flags, dir_fd=fd)
    except OSError:
        return {}
    try:
        text = os.fsdecode(os.read(mark, _MARK_BYTES))
    except OSError:
        return {}
    finally:
        os.close(mark)
    head, *lines = text.split("\n")
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    return found if head == _HEAD else {}

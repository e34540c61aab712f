"""The sandboxes of this user: a folder each, from the start until somebody removes it.

Owns `state_dir()`: `ID/` with the description, the plan, the records and the log of one sandbox,
and `names/`, links from names to ids. A sandbox lives as long as the lock of its folder is held;
the kernel drops it with the launcher, whatever happened. There is no lock over all sandboxes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from sandbox.errors import StateError
from sandbox.linux.paths import private_dir, state_dir
from sandbox.runtime.description import Description, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ID_CHARS = 12
MAX_NAME_CHARS = 64

_NAMES = "names"
_FRESH, _OLD = ".new-", ".old-"  # folders before their first and after their last moment
_FRESH_S = 60
_OWN = "sbx-"
_HEX = frozenset("0123456789abcdef")


class Folder:
    """One sandbox's folder, open. `path` is good as long as nobody removes it; `fd` stays."""

    def __init__(self, path: str, fd: int, description: Description) -> None:
        self.path = path
        self.fd = fd
        self.description = description

    @property
    def id(self) -> str:
        """The sandbox's id."""
        return self.description.id

    @property
    def name(self) -> str:
        """The sandbox's name, or its id where the name cannot be read."""
        return self.description.name or self.id

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open one of its files. Raises OSError."""
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.fd)

    def read(self, name: str) -> bytes:
        """The whole content of a file, b"" when it is not there."""
        try:
            fd = self.open(name)
        except FileNotFoundError:
            return b""
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def create(self, name: str, data: bytes) -> None:
        """Write a file that nobody reads yet. Raises StateError."""
        try:
            with os.fdopen(self.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                file.write(data)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, whole or not at all. Raises StateError."""
        temporary = f".{name}.{os.getpid()}"
        try:
            fd = self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            os.rename(temporary, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as error:
            try:
                os.unlink(temporary, dir_fd=self.fd)
            except OSError:
                pass
            raise _cannot_write(self.path, error) from error

    def describe(self, description: Description) -> None:
        """Write a new description."""
        self.write("sandbox", encode(description))
        self.description = description

    def lives(self) -> bool:
        """Whether its launcher is there."""
        return _locked(f"/proc/self/fd/{self.fd}/lock")

    def close(self) -> None:
        """Close the folder; the sandbox goes on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def remove(self) -> bool:
        """Remove a sandbox that is dead; False when it lives, or somebody else removes it."""
        try:
            lock = self.open("lock")
        except FileNotFoundError:
            lock = -1  # a damaged one: no launcher lives without its lock
        aside = f"{os.path.dirname(self.path)}/{_OLD}{self.id}"
        try:
            if lock >= 0:
                _lock_dead(lock)
            # From here on it is gone, and what is left of it belongs to whoever sweeps.
            os.rename(self.path, aside)
            for name in (self.name,) if self.description.name else _names():
                if _holder(name) == self.id:
                    _drop_name(name, self.id)
            _delete(aside)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise _cannot_write(self.path, error) from error
        finally:
            if lock >= 0:
                os.close(lock)
        return True


def _delete(path: str) -> None:
    """Remove a folder of ours that has no name any more. Raises OSError."""
    while names := os.listdir(path):
        for name in names:
            os.unlink(f"{path}/{name}")
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        _delete(path)  # the last word of a command that had joined


def _lock_dead(lock: int) -> None:
    """Take the lock of a dead sandbox for its removal. Raises BlockingIOError when it lives."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # Others who only look (_locked) are no owners.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(0.001)


def _locked(path: str) -> bool:
    """Whether somebody holds the lock of this file."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _cannot_write(path: str, error: OSError) -> StateError:
    return StateError(
        f"cannot write to {path}",
        cause=(error.strerror or str(error)).lower(),
        hint="make room there, or set XDG_RUNTIME_DIR to a folder of yours",
    )


def boot_id() -> str:
    """This boot of this machine, "" where /proc does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot (proc(5), stat: 22); 0: it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def own_name(identity: str) -> str:
    """The name of a sandbox that was given none: it needs no entry among the names."""
    return f"{_OWN}{identity[:8]}"


def new_id() -> str:
    """A fresh id: 12 hexadecimal characters."""
    return os.urandom(ID_CHARS // 2).hex()


def claim(description: Description) -> tuple[Folder, int]:
    """Make the folder of a new sandbox and take its name.

    Returns it with the descriptor that holds its lock, both the caller's to close. Raises
    StateError when the name is taken by one that lives, or nothing can be written there.
    """
    base = private_dir(state_dir())
    fresh = f"{base}/{_FRESH}{description.id}"
    folder = Folder(f"{base}/{description.id}", -1, description)
    lock = -1
    try:
        # Until it is locked it would look like one without an owner: so not under its own name.
        os.mkdir(fresh, 0o700)
        folder.fd = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        lock = folder.open("lock", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.create("sandbox", encode(description))
        os.rename(fresh, folder.path)
        if description.name != own_name(description.id):
            take_name(description.name, description.id)
    except BaseException as error:
        if lock >= 0:
            os.close(lock)
            folder.remove()
        folder.close()
        try:
            _delete(fresh)
        except OSError:
            pass
        if isinstance(error, OSError):
            raise _cannot_write(base, error) from error
        raise
    return folder, lock


# ---- names ---------------------------------------------------------------------------------


def take_name(name: str, owner: str) -> None:
    """Let `name` mean `owner`. Raises StateError when it means another one that lives, OSError."""
    link = f"{private_dir(f'{state_dir()}/{_NAMES}')}/{name}"
    for _ in range(20):
        try:
            os.symlink(owner, link)
            return
        except FileExistsError:
            holder = _holder(name)
        if holder == owner:
            return
        if holder is not None and not _drop_name(name, holder):
            raise _taken(name, holder)
    raise StateError(f'cannot take the name "{name}"', cause="others try at the same time")


def _taken(name: str, holder: str) -> StateError:
    return StateError(
        f'the name "{name}" is taken',
        cause=f"sandbox {holder} has it and is running",
        hint=f"use another name, or: sbx rm -f {name}",
    )


def _holder(name: str) -> str | None:
    try:
        return os.readlink(f"{state_dir()}/{_NAMES}/{name}")
    except OSError:
        return None


def _names() -> list[str]:
    try:
        return os.listdir(f"{state_dir()}/{_NAMES}")
    except OSError:
        return []


def _means_one_that_lives(name: str, holder: str) -> bool:
    folder = _open(holder)
    if folder is None:
        return False
    try:
        return folder.name == name and folder.lives()
    finally:
        folder.close()


def _drop_name(name: str, owner: str) -> bool:
    """Free `name`, as far as it means `owner`; False when that one lives under this name.

    Names are taken without a lock, and by one alone: symlink(2) replaces nothing. They are freed
    under one, so that nobody frees what somebody else has taken since he looked.
    """
    folder = f"{state_dir()}/{_NAMES}"
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _means_one_that_lives(name, owner):
            return False
        if _holder(name) == owner:
            os.unlink(name, dir_fd=lock)
        return True
    except FileNotFoundError:
        return True
    finally:
        os.close(lock)


def rename(folder: Folder, name: str) -> None:
    """Give a sandbox another name. Raises StateError when it is taken, or it is just starting."""
    now = _open(folder.id)
    if now is None:
        raise _cannot_rename(folder, "it is gone")
    try:
        fcntl.flock(now.fd, fcntl.LOCK_EX)  # of this folder alone: another renaming would be lost
        found = decode(now.read("sandbox"))
        if found is None or not found.pid:
            raise _cannot_rename(folder, "it is being started, or removed")
        folder.description = found
        _rename(folder, name)
    finally:
        now.close()


def _cannot_rename(folder: Folder, cause: str) -> StateError:
    hint = "see which there are with: sbx ps -a"
    return StateError(f"cannot rename sandbox {folder.name}", cause=cause, hint=hint)


def _rename(folder: Folder, name: str) -> None:
    before, holder = folder.name, _holder(name)
    if holder not in (None, folder.id) and _means_one_that_lives(name, holder or ""):
        raise _taken(name, holder or "")
    folder.describe(folder.description.replace(name=name))
    try:
        take_name(name, folder.id)
    except BaseException:
        folder.describe(folder.description.replace(name=before))
        raise
    if before != name:
        _drop_name(before, folder.id)


# ---- finding -------------------------------------------------------------------------------


def _open_damaged(identity: str) -> Folder | None:
    """A sandbox of which the id alone is known."""
    path = f"{state_dir()}/{identity}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    return Folder(path, fd, Description(identity, "", 0.0, "", "", (), ""))


def _open(identity: str) -> Folder | None:
    found = _open_damaged(identity)
    if found is None:
        return None
    description = decode(found.read("sandbox"))
    if description is None or description.id != identity:
        found.close()
        return None
    found.description = description
    return found


def ids() -> list[str]:
    """The ids of all sandboxes whose folders are there."""
    try:
        names = os.listdir(state_dir())
    except OSError:
        return []
    return sorted(name for name in names if len(name) == ID_CHARS and _HEX.issuperset(name))


def everyone(damaged: list[Folder] | None = None) -> Iterator[Folder]:
    """Every sandbox, oldest first; each is the caller's to close.

    `damaged` gets those whose description is spoilt, or of another version: of them only the id
    is known, and whether they live.
    """
    found = []
    for identity in ids():
        folder = _open(identity)
        if folder is not None:
            found.append(folder)
        elif damaged is not None and (folder := _open_damaged(identity)) is not None:
            damaged.append(folder)
    return iter(sorted(found, key=lambda folder: folder.description.created_s))


def find(word: str, *, damaged: bool = False) -> Folder:
    """The sandbox with this name, id, or beginning of an id. Raises StateError.

    With `damaged` also one whose description is spoilt, by its id alone.
    """
    holder = _holder(word) if word and "/" not in word and not word.startswith(".") else None
    if holder is not None and (found := _open(holder)) is not None:
        if found.name == word:
            return found
        found.close()
    start = word.removeprefix(_OWN)
    matches = [identity for identity in ids() if start and identity.startswith(start)]
    if len(matches) > 1:
        raise StateError(
            f'"{word}" is not enough',
            cause=f"{len(matches)} sandboxes begin with it",
            hint="use more of the id",
        )
    if matches and (found := _open(matches[0])) is not None:
        return found
    spoilt = _open_damaged(matches[0]) if matches else None
    if spoilt is not None and damaged:
        return spoilt
    if spoilt is not None:
        spoilt.close()
        raise StateError(
            f"cannot read the state of sandbox {matches[0]}",
            cause="it is damaged, or another version of sbx wrote it",
            hint=f"use that version, or: sbx rm -f {matches[0]}",
        )
    raise StateError(
        f'no sandbox "{word}"',
        cause="none has this name or an id that begins so",
        hint="see which there are with: sbx ps -a",
    )


def sweep() -> list[str]:
    """Remove what nobody needs: dead sandboxes that were to remove themselves or never lived, all
    of earlier boots, and what others left half made or half removed. Returns what was removed,
    without those that ended in the background and were to go then."""
    base, removed, boot = state_dir(), [], boot_id()
    for identity in ids():
        if _locked(f"{base}/{identity}/lock"):
            continue
        folder = _open(identity)
        if folder is None:
            continue
        known = folder.description
        needless = known.auto_remove or not known.pid or known.boot_id != boot
        as_asked = known.auto_remove and known.detached  # nobody of ours is there at its end
        if needless and folder.remove() and known.pid and not as_asked:
            removed.append(folder.path)
        folder.close()
    try:
        names = os.listdir(base)
    except OSError:
        return removed
    for name in names:
        path = f"{base}/{name}"
        try:
            if name.startswith(_OLD):
                _delete(path)
            elif name.startswith(_FRESH) and time.time() - os.lstat(path).st_mtime > _FRESH_S:
                _delete(path)
                removed.append(path)
        except OSError:
            continue
    return removed

"""`sbx rootfs from-host`: a minimal root file system made of this host's own programs.

Owns the frame around the collected files (standard directories, accounts, name services, the
loader's cache) and the safe replacement of OUT: everything is written to a temporary sibling,
which is then renamed. The programs' needs are `collect` and `evident`.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile

from sandbox.errors import RootfsError
from sandbox.linux.paths import absolute
from sandbox.record import Record
from sandbox.services.storage.collect import SYSTEM_PATH, Collector, search_path
from sandbox.services.storage.inventory import links_at_top, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MARKER = ".sbx-rootfs"
_MARKER_TEXT = "made by sbx rootfs from-host\n"

DEFAULT_PROGRAMS = words(
    """sh bash [ arch awk b2sum base64 basename cat chgrp chmod chown cksum cmp comm cp csplit cut
    date dd df diff dir dirname du echo env expand expr factor false find fmt fold free getconf
    grep egrep fgrep gunzip gzip head hostid hostname id install ionice join kill link ln locale
    logname ls md5sum mkdir mkfifo mknod mktemp more mount mountpoint mv nice nl nohup nproc
    numfmt od paste patch pathchk pgrep pidof pkill pr printenv printf prlimit ps ptx pwd pwdx
    python3 readlink realpath renice rev rm rmdir runcon sed seq setsid sha1sum sha256sum
    sha512sum shred shuf sleep sort split stat stdbuf stty sum sync tac tail tar tee test timeout
    top touch tr true truncate tsort tty umount uname unexpand uniq unlink unshare uptime users vdir
    vmstat watch wc which whoami who xargs xxd yes zcat"""
)
_REQUIRED_DEFAULT = "sh"

_TOP_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DIRECTORIES = (
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),  # noqa: S108 - a directory inside
    ("/var", 0o755),
    ("/var/tmp", 0o1777),  # noqa: S108 - a directory inside
)
_ACCOUNTS = (
    "root:x:0:0:root:/root:{shell}\n"
    "user:x:1000:1000:user:/tmp:{shell}\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
)
_GROUP = "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n"
_NSSWITCH = (
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
    "networks: files\nprotocols: files\nservices: files\n"
)
_HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
_HOST_FILES = ("/etc/services", "/etc/protocols", "/etc/os-release")
# C.UTF-8 belongs to no language; without it a UTF-8 name is bytes to most programs.
_LOCALE = "/usr/lib/locale/C.utf8"
_COVERED = ("/tmp/", "/run/", "/proc/", "/sys/", "/dev/")  # noqa: S108 - directories inside


class Result(Record):
    """What was made: counts of each kind, `bytes` copied, and what was left out or is doubtful."""

    out: str
    programs: int
    libraries: int
    files: int
    directories: int
    links: int
    bytes: int
    warnings: tuple[str, ...]


def build(
    out: str,
    programs: Sequence[str] = (),
    *,
    includes: Sequence[tuple[str, str]] = (),
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Make the root file system `out` of `programs` (names on PATH, or paths).

    No programs means DEFAULT_PROGRAMS, of which the host may lack any but `sh`. `includes` are
    (host path, path inside) pairs of files and folders, an empty second part means the same
    path. `force` replaces an `out` that an earlier call made, and nothing else. `progress` gets
    (bytes done, bytes in all). Raises RootfsError with every problem found, and then leaves
    `out` as it was.
    """
    out = absolute(out)
    _check_target(out, force)
    collector = _collect(tuple(programs), includes)
    inventory = collector.inventory
    if inventory.problems:
        problems = tuple(_printable(one) for one in dict.fromkeys(inventory.problems))
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise RootfsError(f"cannot build {_printable(out)}: {count}", problems=problems)
    parent, name = os.path.split(out)
    work = tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=parent)
    try:
        inventory.write(work, progress)
        if collector.is_glibc:
            _write_loader_cache(work, collector)
        _move_into_place(work, out, inventory.warnings)
    except OSError as error:
        named = f" {error.filename}" if error.filename else ""
        raise RootfsError(
            f"cannot build {out}", cause=f"{(error.strerror or str(error)).lower()}{named}"
        ) from error
    finally:
        if os.path.lexists(work):
            shutil.rmtree(work, ignore_errors=True)
    kinds = [entry.kind for entry in inventory.entries.values()]
    return Result(
        out=out,
        programs=len(collector.programs),
        libraries=len(collector.libraries),
        files=kinds.count("file") + kinds.count("text"),
        directories=kinds.count("directory"),
        links=kinds.count("link"),
        bytes=inventory.size,
        warnings=tuple(_printable(one) for one in dict.fromkeys(inventory.warnings)),
    )


def _check_target(out: str, force: bool) -> None:
    """Raise unless `out` is free, empty, or (with force) made by an earlier call."""
    parent = os.path.dirname(out)
    if not os.path.isdir(parent):
        raise RootfsError(f"cannot build {out}", cause=f"{parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RootfsError(f"cannot build {out}", cause=f"{parent} cannot be written by this user")
    try:
        mode = os.lstat(out).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "a file"
        raise RootfsError(f"cannot build {out}", cause=f"it is {kind}")
    try:
        if not os.listdir(out):
            return
    except OSError as error:
        cause = (error.strerror or "it cannot be read").lower()
        raise RootfsError(f"cannot build {out}", cause=cause) from error
    if not is_ours(out):
        raise RootfsError(
            f"cannot build {out}",
            cause="it is a directory with content that sbx did not make",
            hint="choose another path, or remove it yourself",
        )
    if not force:
        raise RootfsError(
            f"cannot build {out}", cause="it exists already", hint="use --force to replace it"
        )


def is_ours(path: str) -> bool:
    """Whether `path` is a directory of this user that `build` made."""
    marker = os.path.join(path, MARKER)
    try:
        if os.lstat(path).st_uid != os.geteuid() or not stat.S_ISREG(os.lstat(marker).st_mode):
            return False
        with open(marker, encoding="utf-8", errors="replace") as file:
            return file.readline(200) == _MARKER_TEXT
    except OSError:
        return False


def _collect(programs: tuple[str, ...], includes: Sequence[tuple[str, str]]) -> Collector:
    is_default = not programs or programs == DEFAULT_PROGRAMS
    path = SYSTEM_PATH if is_default else os.environ.get("PATH", SYSTEM_PATH)
    collector = Collector(search_path(path))
    inventory = collector.inventory
    for inside, target in links_at_top(_TOP_LINKS):
        inventory.put_link(inside, target)
        inventory.add(os.path.realpath(inside))
    if is_default:
        absent = [
            name
            for name in DEFAULT_PROGRAMS
            if not collector.add_program(name, optional=name != _REQUIRED_DEFAULT)
        ]
        if absent:
            inventory.warnings.append(f"not on this host, left out: {', '.join(absent)}")
    else:
        for name in programs:
            collector.add_program(name)
    for path in collector.programs:
        if path.startswith(_COVERED):
            inventory.warnings.append(f"{path} will be covered by what a sandbox mounts there")
    inventory.add_if_present(*_HOST_FILES, *([_LOCALE] if collector.is_glibc else []))
    for source, inside in includes:
        _include(collector, source, inside)
    _add_frame(collector, programs)
    return collector


def _include(collector: Collector, source: str, inside: str) -> None:
    problems = collector.inventory.problems
    path = absolute(source)
    if not os.path.exists(path):
        problems.append(f"--include {source}: no such file or directory")
    elif inside and (not inside.startswith("/") or ".." in inside.split("/")):
        problems.append(f'--include {source}: the path inside must be absolute, found "{inside}"')
    elif inside and os.path.normpath(inside) == "/":
        problems.append(f"--include {source}: the path inside cannot be the root itself")
    else:
        same = not inside or os.path.normpath(inside) == path
        try:
            collector.add_tree(path, inside="" if same else os.path.normpath(inside))
        except OSError as error:
            problems.append(f"--include {source}: {(error.strerror or 'unreadable').lower()}")


def _add_frame(collector: Collector, programs: tuple[str, ...]) -> None:
    """Add the directories and files that every root file system has."""
    inventory = collector.inventory
    for path, mode in _DIRECTORIES:
        inventory.put_directory(path, mode)
    has_bash = inventory.place("/bin/bash") in inventory.entries
    shell = "/bin/bash" if has_bash else "/bin/sh"
    inventory.put_text("/etc/passwd", _ACCOUNTS.format(shell=shell))
    inventory.put_text("/etc/group", _GROUP)
    inventory.put_text("/etc/nsswitch.conf", _NSSWITCH)
    inventory.put_text("/etc/hosts", _HOSTS)
    inventory.put_link("/etc/mtab", "../proc/self/mounts")
    if collector.is_glibc:
        folders = dict.fromkeys([*collector.folders_of_libraries])
        inventory.put_text("/etc/ld.so.conf", "".join(f"{one}\n" for one in folders))
    names = "\n".join(_printable(name) for name in programs or DEFAULT_PROGRAMS)
    inventory.put_text(f"/{MARKER}", f"{_MARKER_TEXT}{names}\n")


def _write_loader_cache(root: str, collector: Collector) -> None:
    """Let ldconfig index the libraries: needed for folders of ld.so.conf, else only faster."""
    ldconfig = next((p for p in ("/sbin/ldconfig", "/usr/sbin/ldconfig") if os.path.exists(p)), "")
    cause = "there is no ldconfig on this host"
    if ldconfig:
        done = subprocess.run(
            [ldconfig, "-X", "-r", root],
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return
        cause = f"ldconfig failed: {os.fsdecode(done.stderr).strip()}"
    if collector.folders_of_libraries:
        folders = ", ".join(collector.folders_of_libraries)
        collector.inventory.warnings.append(f"libraries in {folders} will not be found: {cause}")


def _move_into_place(work: str, out: str, warnings: list[str]) -> None:
    """Give `out` its new content; what stood there is removed only after that worked."""
    try:
        os.rename(work, out)
        return
    except OSError:
        if not is_ours(out):
            raise
    old = tempfile.mkdtemp(
        prefix=f".{os.path.basename(out)}.", suffix=".old", dir=os.path.dirname(out)
    )
    os.rename(out, old)
    try:
        os.rename(work, out)
    except OSError:
        os.rename(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if os.path.lexists(old):
        warnings.append(f"the old content could not be removed completely: {old}")


def _printable(text: str) -> str:
    """Text that may hold a file's odd name, fit for one line of a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

"""HostFacts, found by trying and remembered for one boot.

Owns the cache of what `attempt` found, and what is read afresh on each start. Does not explain
failures: `userns` and `doctor` do.
On the start path: a hit costs a dozen calls of stat and read, and neither process nor import.
"""

from __future__ import annotations

import errno
import marshal
import os
import sys

from sandbox.errors import SbxError
from sandbox.host.facts import HostFacts
from sandbox.linux import private_cache
from sandbox.linux.paths import state_dir
from sandbox.linux.workspace import runs_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.host.attempt import Outcome

SYSCTLS = (
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "user/max_user_namespaces",
    "user/max_time_namespaces",
)
FILES = (
    "/etc/subuid",
    "/etc/subgid",
    "/etc/passwd",
    "/etc/nsswitch.conf",
    "/usr/bin/newuidmap",
    "/usr/bin/newgidmap",
)
PLACES = ("/proc/self/ns/user", "/proc/self/ns/mnt", "/")

_FORMAT = 3  # of the cache, and of what the trials mean; part of the key
_FIELDS = 14  # of what `_find` returns
# Refusals that stay as they are until something in the key changes. Others (out of memory, no
# answer) are tried again by the next run.
_LASTING = (
    0,
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.EIO,
    errno.ENODEV,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
)


# ---- reading ----


def user_name(uid: int) -> str:
    """The account's name, or the number as text where there is none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 1) of "6.1.0-18-amd64"; (0, 0) when it does not start with two numbers."""
    parts = release.split(".", 2)
    minor = ""
    for letter in parts[1] if len(parts) > 1 else "":
        if not letter.isdecimal():
            break
        minor += letter
    return (int(parts[0]), int(minor)) if parts[0].isdecimal() and minor else (0, 0)


def read_kernel_file(path: str) -> str:
    """The text of a small file of /proc or /sys without its newline; "" when unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        # One read gives a page at most of the longer files, such as mountinfo.
        text = b""
        while chunk := os.read(descriptor, 65536):
            text += chunk
        return text.decode("utf-8", "surrogateescape").strip(" \n")
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def masked_proc(mountinfo: str) -> tuple[str, ...]:
    """Mount points over parts of /proc, for which the kernel refuses a fresh, unmasked one."""
    found = []
    for line in mountinfo.split("\n"):
        words = line.split(" ")
        kind = words[words.index("-") + 1] if "-" in words[:-1] else ""
        if len(words) > 4 and words[4].startswith("/proc/") and kind not in _HARMLESS:
            found.append(words[4])
    return tuple(found)


_CAP_SETGID, _CAP_SETUID = 6, 7
_HARMLESS = ("autofs", "binfmt_misc", "nfsd")  # they cover an empty folder: nothing is hidden


# ---- the cache ----


def _identity(path: str) -> tuple[int, ...]:
    """What tells one state of a file from another; () when it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_uid,
        found.st_size,
        # A change time also notices restored modification times and new attributes.
        found.st_ctime_ns,
    )


def _disk_of_runs() -> int:
    """The device of the folders of runs, or of where they will be made."""
    path = runs_dir()
    while True:
        try:
            return os.stat(path).st_dev
        except OSError:
            if path in ("/", ""):
                return 0
            path = os.path.dirname(path)


def restrictions() -> tuple[str, ...]:
    """What the caller was put under: it decides what is possible, and is inherited."""
    status = read_kernel_file("/proc/self/status").split("\n")
    wanted = ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters")
    return tuple(line for line in status if line.partition(":")[0] in wanted)


def cache_key() -> tuple[Any, ...]:
    """Everything that the remembered facts depend on."""
    return (
        _FORMAT,
        read_kernel_file("/proc/sys/kernel/random/boot_id"),
        os.uname().release,
        os.getuid(),
        os.getgid(),
        sys.hexversion,
        tuple(read_kernel_file(f"/proc/sys/{name}") for name in SYSCTLS),
        tuple(_identity(path)[:2] for path in PLACES),
        tuple(_identity(path) for path in FILES),
        restrictions(),
        read_kernel_file("/proc/self/attr/current"),
        "\toverlay" in read_kernel_file("/proc/filesystems"),
        runs_dir(),
        _disk_of_runs(),
    )


def _folder() -> str:
    return f"{state_dir()}/host"


def _load(key: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """What is remembered for a key, None when there is no sound entry."""
    body = private_cache.load(_folder(), repr(key).encode())
    try:
        found = marshal.loads(body or b"")  # noqa: S302 - only this user could have written it
    except (ValueError, EOFError, TypeError):
        return None
    return found if type(found) is tuple and len(found) == _FIELDS else None


def _store(key: tuple[Any, ...], found: tuple[Any, ...]) -> None:
    """Remember `found`; failing to is no failure."""
    private_cache.store(_folder(), repr(key).encode(), marshal.dumps(found, 4))


def forget_facts() -> None:
    """Let the next run try everything again: what was remembered turned out wrong."""
    private_cache.store(_folder(), repr(cache_key()).encode(), b"")


# ---- facts ----


def _subordinate(
    name: str, uid: int, gid: int
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...], str]:
    """Both kinds of ranges, or neither and why."""
    from sandbox.host.subids import read_subids

    if uid == 0 and (inner := _ids_of_this_namespace()) is not None:
        return inner
    try:
        uids = read_subids("uid", name, uid, uid).ranges
        return uids, read_subids("gid", name, uid, gid).ranges, ""
    except SbxError as error:
        return (), (), f"{error.what}: {error.cause}"


def _ids_of_this_namespace() -> (
    tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...], str] | None
):
    """For root of a further user namespace: the ids there but 0. None in the first one."""
    found = []
    for kind, capability in (("uid", _CAP_SETUID), ("gid", _CAP_SETGID)):
        lines = [line.split() for line in read_kernel_file(f"/proc/self/{kind}_map").split("\n")]
        extents = [(int(first), int(count)) for first, _, count in filter(None, lines)]
        if extents == [(0, 0xFFFFFFFF)]:
            return None
        ranges = tuple(
            (max(first, 1), count - (first == 0)) for first, count in extents if first or count > 1
        )
        if not ranges:
            return (), (), "the user namespace that this program runs in has no other ids"
        if not _effective() >> capability & 1:
            cause = (
                f"root of this user namespace has no right to map others (CAP_SET{kind.upper()})"
            )
            return (), (), cause
        found.append(ranges)
    return found[0], found[1], ""


def _effective() -> int:
    """The effective capabilities of this process as a mask."""
    words = [line for line in restrictions() if line.startswith("CapEff:")]
    return int(words[0].partition("\t")[2], 16) if words else 0


def _userns_error(outcome: Outcome) -> str:
    if outcome.ok or outcome.step == "trial":
        return outcome.reason
    from sandbox.host.userns import explain

    return f"{outcome.reason} ({explain(outcome.errno).cause})"


def _proc_error(outcome: Outcome) -> str:
    if outcome.ok:
        return ""
    covered = masked_proc(read_kernel_file("/proc/self/mountinfo"))
    if outcome.errno == errno.EPERM and covered:
        return f"{outcome.reason} (a container hides parts of /proc, such as {covered[0]})"
    return outcome.reason


def _is_filtered() -> bool:
    """Whether a filter of somebody else is in force; nothing tells one filter from another."""
    return "Seccomp:\t2" in restrictions()


def _find() -> tuple[tuple[Any, ...], bool]:
    """Try everything: the fields from user_name on, and whether they may be remembered."""
    from sandbox.host.attempt import Outcome, attempt
    from sandbox.host.disk import attempt_overlay_on_disk, is_partial
    from sandbox.host.helpers import find_helper

    uid, gid = os.getuid(), os.getgid()
    name = user_name(uid)
    whole = attempt("facts")
    parts = [Outcome(*part) for part in whole.value] if whole.ok else [whole] * 6
    userns, overlay, proc, landlock, seccomp, time_namespace = parts
    subuids, subgids, subids_error = _subordinate(name, uid, gid)
    on_disk = Outcome(None, "", 0, "")
    if is_partial(overlay):
        parts.append(on_disk := attempt_overlay_on_disk())
    lasting = userns.ok and all(part.errno in _LASTING for part in parts) and not subids_error
    if not (landlock.ok and seccomp.ok) and _is_filtered():
        lasting = False  # perhaps this filter alone hides them, and the next one does not
    found = (
        name,
        subuids,
        subgids,
        find_helper("newuidmap"),
        find_helper("newgidmap"),
        _userns_error(userns),
        "" if is_partial(overlay) else overlay.reason,
        _proc_error(proc),
        landlock.value if landlock.ok else 0,
        seccomp.ok,
        time_namespace.ok,
        subids_error,
        overlay.reason if is_partial(overlay) else "",
        on_disk.reason,
    )
    return found, lasting


def host_facts(*, refresh: bool = False) -> HostFacts:
    """What this machine can do for the caller; `refresh` tries again what is remembered.

    Never raises for what is missing: the facts say so.
    """
    found = None if refresh else _load(cache_key())
    if found is None:
        found, lasting = _find()
        if lasting:
            # The key anew: a trial makes the kernel load the overlay module.
            _store(cache_key(), found)
    machine = os.uname()
    name, subuids, subgids, newuidmap, newgidmap, *tried = found
    return HostFacts(
        os.getuid(),
        os.getgid(),
        tuple(os.getgroups()),
        name,
        machine.machine,
        kernel_version(machine.release),
        subuids,
        subgids,
        newuidmap,
        newgidmap,
        *tried,
    )

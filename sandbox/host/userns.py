"""Why user namespaces fail on this machine, and what cures it.

Owns the explanation of every errno that creating or mapping a user namespace gives. Only reads;
`probe` tries. Used when a run fails and by the doctor.
"""

from __future__ import annotations

import errno
import os
import sys

from sandbox.host import cures
from sandbox.host.probe import kernel_version, read_kernel_file
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[str], str]

OLDEST_KERNEL = (5, 12)  # mount_setattr(2)
MAX_LEVELS = 32  # nested user namespaces, kernel/user_namespace.c


class Explanation(Record):
    """`cause` in one line; `hint` says what to do; `fix` is a command or file to copy, or ""."""

    cause: str
    hint: str
    fix: str = ""


def container_signs(
    read: Read = read_kernel_file, exists: Callable[[str], bool] = os.path.exists
) -> tuple[str, ...]:
    """What suggests that this program itself runs in a container, each as a short phrase."""
    signs = [f"{path} exists" for path in ("/.dockerenv", "/run/.containerenv") if exists(path)]
    named = os.environ.get("container", "")  # noqa: SIM112 - its name is lower case
    if named:
        signs.append(f"the environment says container={named[:40]!r}")
    systemd = read("/run/systemd/container")
    if systemd:
        signs.append(f"/run/systemd/container says {systemd[:40]!r}")
    first = read("/proc/1/cgroup")
    for word in ("docker", "libpod", "kubepods", "containerd", "lxc", "machine.slice"):
        if word in first:
            signs.append(f"process 1 is in a cgroup of {word}")
            break
    return tuple(signs)


def full_map(uid_map: str) -> bool:
    """Whether a uid_map is the one of the first user namespace."""
    return uid_map.split() == ["0", "0", "4294967295"]


def chrooted(mountinfo: str) -> bool:
    """Whether the root directory is no mount point: the sign of a chroot into a plain folder."""
    points = [line.split(" ")[4] for line in mountinfo.split("\n") if line.count(" ") > 4]
    return bool(points) and "/" not in points


def under_seccomp(status: str) -> bool:
    """Whether a filter of somebody else is already in force."""
    return "Seccomp:\t2" in status.split("\n")


def apparmor_profile(python: str = "") -> str:
    """A profile that lets the caller of the launcher create user namespaces.

    The launcher runs from a memory file, which no path of a profile matches: it inherits the
    profile of the program that starts it, which is the Python interpreter.
    """
    program = os.path.realpath(python or sys.executable or "/usr/bin/python3")
    return "\n".join(
        (
            "sudo tee /etc/apparmor.d/sbx <<'END'",
            "abi <abi/4.0>,",
            "include <tunables/global>",
            f'profile sbx "{program}" flags=(unconfined) {{',
            "  userns,",
            "  include if exists <local/sbx>",
            "}",
            "END",
            "sudo apparmor_parser --replace /etc/apparmor.d/sbx",
        )
    )


def _sysctl_off(read: Read) -> Explanation | None:
    if read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return Explanation(
            "kernel.unprivileged_userns_clone is 0",
            "ask an administrator to allow user namespaces",
            cures.setting("kernel.unprivileged_userns_clone", 1),
        )
    return None


def _apparmor(read: Read) -> Explanation | None:
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") != "1":
        return None
    return Explanation(
        "kernel.apparmor_restrict_unprivileged_userns is 1 and no profile covers this program",
        "ask an administrator for a profile; it covers every program of this interpreter, so a "
        'venv of its own made with "python3 -m venv --copies" keeps it narrow',
        apparmor_profile(),
    )


def _outer_filter(read: Read) -> Explanation | None:
    if not under_seccomp(read("/proc/self/status")):
        return None
    return Explanation(
        "a seccomp filter that this program inherited, as containers have, refuses the call",
        "start the outer container with a filter that allows user namespaces and mounts",
        "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
        "--security-opt systempaths=unconfined ...",
    )


def _own_ids(read: Read) -> Explanation | None:
    lines = [line.split() for line in read("/proc/self/uid_map").split("\n") if line.strip()]
    uid = os.getuid()
    if not lines or any(int(a) <= uid < int(a) + int(count) for a, _, count in lines):
        return None
    return Explanation(
        f"user id {uid} is not mapped in the user namespace that this program runs in",
        "run sbx as a user that the outer container knows",
    )


def _not_permitted(read: Read) -> Explanation:
    chroot = None
    if chrooted(read("/proc/self/mountinfo")):
        chroot = Explanation(
            "this program runs in a chroot, where the kernel refuses user namespaces",
            "use a container or pivot_root instead of chroot, or run sbx outside of it",
        )
    # Most specific first: a switch that is off explains everything, a filter only perhaps.
    return (
        _sysctl_off(read)
        or chroot
        or _own_ids(read)
        or _apparmor(read)
        or _outer_filter(read)
        or Explanation(
            "a security module or the configuration of this kernel refuses it",
            "look for a denial with: sudo dmesg | grep -i -e denied -e userns",
        )
    )


def _no_space(read: Read) -> Explanation:
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"):
        limit = f"user.max_{kind}_namespaces"
        if read(f"/proc/sys/user/max_{kind}_namespaces") == "0":
            return Explanation(
                f"{limit} is 0",
                f"ask an administrator to allow {kind} namespaces",
                cures.setting(limit, 15000),
            )
    most = read("/proc/sys/user/max_user_namespaces")
    return Explanation(
        f"user.max_user_namespaces ({most or 'unknown'}) of them exist already here, in an outer "
        f"namespace with a lower limit, or more than {MAX_LEVELS} are nested",
        "end other sandboxes, nest less deeply, or ask an administrator for a higher limit",
        cures.setting("user.max_user_namespaces", 15000) if most.isdecimal() else "",
    )


def explain(number: int, *, read: Read = read_kernel_file) -> Explanation:
    """Why making a user namespace, or others in it, failed with errno `number`; only reads."""
    if number in {errno.ENOSPC, errno.EUSERS}:
        return _no_space(read)
    if number in {errno.EPERM, errno.EACCES}:
        return _not_permitted(read)
    if number in {errno.EINVAL, errno.ENOSYS}:
        return _outer_filter(read) or Explanation(
            "this kernel is built without user namespaces (CONFIG_USER_NS)",
            "use a kernel with user namespaces",
        )
    if number == errno.EAGAIN:
        return Explanation(
            "too many processes: ulimit -u or the pids limit of the cgroup is reached",
            "end other processes, or raise the limit",
        )
    if number == errno.ENOMEM:
        return Explanation("the kernel is out of memory", "end other processes")
    return Explanation(os.strerror(number).lower(), 'run "sbx doctor"')


def explain_refused_call(number: int, *, read: Read = read_kernel_file) -> tuple[str, str]:
    """(cause, hint) when a call that sbx needs failed with errno `number`; ("", "") = unknown."""
    release = os.uname().release
    filtered = _outer_filter(read)
    if number == errno.ENOSYS and kernel_version(release) < OLDEST_KERNEL:
        oldest = ".".join(map(str, OLDEST_KERNEL))
        return f"this is Linux {release}", f"sbx needs Linux {oldest} or newer"
    if filtered is None or number not in {errno.ENOSYS, errno.EPERM}:
        return "", ""
    cause = filtered.cause
    if number == errno.EPERM:
        cause = cause.replace("refuses", "may refuse")
    return cause, f"{filtered.hint}: {filtered.fix}"


def explain_in_a_line(number: int) -> tuple[str, str]:
    """(cause, hint) for the error that a failed run prints; `number` is the kernel's errno."""
    found = explain(number)
    fix = found.fix
    if not fix:
        return found.cause, found.hint
    if "\n" in fix:
        return found.cause, 'run "sbx doctor" for a profile that an administrator can install'
    return found.cause, f"{found.hint}: {fix}"

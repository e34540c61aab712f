"""Which control groups this user may use. Only reads.

Owns the reading of /proc/self/cgroup and of the cgroup mounts, for the doctor's verdict. Limits
are set elsewhere.
"""

from __future__ import annotations

import os

from sandbox.host import cures
from sandbox.host.finding import Finding
from sandbox.host.probe import read_kernel_file
from sandbox.record import Record

WANTED = ("cpu", "memory", "pids", "io")
_LOST = "memory, CPU and processes are limited per process and per user namespace only"


class Cgroups(Record):
    """`unified`: where cgroup v2 is mounted, "" if nowhere; `own`: this process's folder there.

    `legacy`: controllers that cgroup v1 holds, so that v2 cannot have them.
    """

    unified: str
    own: str
    legacy: tuple[str, ...]


def find_cgroups(mountinfo: str, own_groups: str) -> Cgroups:
    """The cgroups that a mountinfo and a /proc/self/cgroup speak of."""
    unified, root, legacy = "", "/", []
    for line in mountinfo.split("\n"):
        words = line.split(" ")
        if len(words) < 10 or "-" not in words:
            continue
        kind = words[words.index("-") + 1]
        if kind == "cgroup2" and not unified:
            unified, root = words[4], words[3]
        elif kind == "cgroup":
            options = words[-1].split(",")
            legacy += [name for name in options if name in {*WANTED, "blkio", "cpuset"}]
    own = ""
    for line in own_groups.split("\n"):
        # The path is relative to the cgroup namespace, the mount shows the part below its root.
        if line.startswith("0::/") and unified and not line.startswith("0::/.."):
            path = line[3:].removeprefix(root if root != "/" else "")
            own = f"{unified}/{path.strip('/')}".rstrip("/")
    return Cgroups(unified, own, tuple(dict.fromkeys(legacy)))


def _delegated(folder: str) -> tuple[str, ...] | None:
    """The controllers that a folder offers, None when this user may not make groups in it."""
    files = (folder, f"{folder}/cgroup.procs", f"{folder}/cgroup.subtree_control")
    if not all(os.access(path, os.W_OK) for path in files):
        return None
    return tuple(read_kernel_file(f"{folder}/cgroup.controllers").split())


def _user_manager(unified: str) -> str:
    """The folder of systemd's manager for this user, "" when it does not run."""
    uid = os.getuid()
    folder = f"{unified}/user.slice/user-{uid}.slice/user@{uid}.service"
    return folder if os.path.isdir(folder) else ""


def _manager_answers() -> bool:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") or f"/run/user/{os.getuid()}"
    return any(os.path.exists(f"{runtime}/{name}") for name in ("systemd/private", "bus"))


def _delegation_fix() -> str:
    return "\n".join(
        (
            "sudo mkdir -p /etc/systemd/system/user@.service.d",
            "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | "
            "sudo tee /etc/systemd/system/user@.service.d/delegate.conf",
            "sudo systemctl daemon-reload",
        )
    )


def _without_unified(groups: Cgroups) -> Finding:
    if groups.legacy:
        held = ", ".join(groups.legacy)
        detail = f"cgroup v1 holds {held}, which users cannot have; {_LOST}"
        systemd = os.path.isdir("/run/systemd/system")
        if not systemd:
            detail += "; how this machine is booted decides (cgroup_no_v1=all)"
        fix = cures.boot_option("systemd.unified_cgroup_hierarchy=1") if systemd else ""
        return Finding("cgroup", "warn", detail, fix)
    return Finding("cgroup", "warn", f"no cgroup v2 is mounted; {_LOST}")


def check_cgroup() -> Finding:
    """Whether groups of processes can be limited: a subtree of cgroup v2 that is the user's."""
    name = "cgroup"
    mountinfo = read_kernel_file("/proc/self/mountinfo")
    groups = find_cgroups(mountinfo, read_kernel_file("/proc/self/cgroup"))
    if not groups.unified or groups.legacy:
        return _without_unified(groups)
    manager = _user_manager(groups.unified)
    for folder, words in ((groups.own, "this subtree is writable"), (manager, "systemd --user")):
        found = _delegated(folder) if folder else None
        if found is None:
            continue
        missing = [controller for controller in WANTED if controller not in found]
        if not missing:
            return Finding(name, "ok", f"{words}: {folder} offers {' '.join(found)}")
        detail = f"{words}: {folder} lacks {' '.join(missing)}"
        return Finding(name, "warn", detail, _delegation_fix() if manager else "")
    if os.path.isdir("/run/systemd/system") and not (manager and _manager_answers()):
        detail = f"no systemd manager runs for this user, so nothing is delegated; {_LOST}"
        return Finding(name, "warn", detail, f"sudo loginctl enable-linger {os.getuid()}")
    return Finding(name, "warn", f"cgroup v2 is mounted, but no subtree is this user's; {_LOST}")


def pids_max(groups: Cgroups) -> int:
    """The tightest pids.max from this process's group upwards, -1 when there is none."""
    best, folder = -1, groups.own
    while groups.unified and folder.startswith(groups.unified):
        text = read_kernel_file(f"{folder}/pids.max")
        if text.isdecimal() and (best < 0 or int(text) < best):
            best = int(text)
        folder = os.path.dirname(folder)
    return best

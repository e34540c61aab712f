"""The tree of control groups as this process sees it: reading, and who a folder belongs to."""

from __future__ import annotations

import os

from sandbox.errors import HostError
from sandbox.host.cgroups import find_cgroups
from sandbox.host.probe import read_kernel_file

WANTED = ("cpu", "memory", "pids", "io", "cpuset")


def own_folder(pid: int | str = "self") -> str:
    """The folder of a process, "" where the mounted tree does not show it."""
    groups = read_kernel_file(f"/proc/{pid}/cgroup")
    return find_cgroups(read_kernel_file("/proc/self/mountinfo"), groups).own


def words(folder: str, file: str) -> tuple[str, ...]:
    """The words of a file, () when it cannot be read."""
    return tuple(read_kernel_file(f"{folder}/{file}").split())


def write(folder: str, file: str, value: str) -> None:
    """Write a file of a group. Raises OSError."""
    descriptor = os.open(f"{folder}/{file}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def is_ours(folder: str) -> bool:
    """Whether the folder was given to this user: its own, with the files that delegation is."""
    files = (folder, f"{folder}/cgroup.procs", f"{folder}/cgroup.subtree_control")
    try:
        owners = {os.stat(path).st_uid for path in files}
    except OSError:
        return False
    return owners == {os.geteuid()} and all(os.access(path, os.W_OK) for path in files)


def unit_gives(folder: str) -> bool | None:
    """Whether a unit of systemd hands its folder on (Delegate=yes); None: it is no unit's.

    A slice is its manager's alone, and so is what lies above a unit.
    """
    name = os.path.basename(folder)
    if name.endswith(".slice"):
        return False
    if not name.endswith((".scope", ".service")):
        return None
    try:
        return os.getxattr(folder, "user.delegate") == b"1"
    except OSError:
        return False


def enable(folder: str, wanted: tuple[str, ...] = WANTED) -> tuple[str, ...]:
    """Give a folder's children what it has of `wanted`; return what they have then."""
    there = words(folder, "cgroup.controllers")
    given = words(folder, "cgroup.subtree_control")
    for name in wanted:
        if name in there and name not in given:
            try:
                write(folder, "cgroup.subtree_control", f"+{name}")
            except OSError:
                continue
    given = words(folder, "cgroup.subtree_control")
    return tuple(name for name in wanted if name in given)


def processors(folder: str) -> str:
    """The processors that a folder's children may use."""
    return read_kernel_file(f"{folder}/cpuset.cpus.effective")


def move(pid: int, folder: str) -> None:
    """Move one process. Raises HostError."""
    try:
        write(folder, "cgroup.procs", str(pid))
    except OSError as error:
        raise HostError(
            f"cannot move process {pid} into {folder}",
            cause=(error.strerror or "").lower(),
            hint='see "sbx doctor", or use resources.driver = "none"',
        ) from error

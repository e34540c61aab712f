"""A control group for one sandbox: the registry of drivers, and what all of them share.

A driver is a module with `find() -> Available` (its `driver` is "" where it cannot work, with the
cause; it tries what it claims) and `make(available, claim, launcher) -> Group`. `admit(group,
launcher)` lets a later launcher enter. Modules are imported only where they are used.
"""

from __future__ import annotations

import os

from sandbox.plan.request import Available

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from sandbox.services.cgroup.group import Claim, Group

    class Driver(Protocol):
        """What each module of the registry has."""

        def find(self) -> Available:
            """What it could make."""

        def make(self, available: Available, claim: Claim, launcher: int) -> Group:
            """Make it, with the claim as its own; `launcher` will clone into it. HostError."""

        def admit(self, group: Group, launcher: int) -> None:
            """Let a process clone into a group that is there. Raises HostError."""


UNIFIED = "/sys/fs/cgroup"
# Where distributions mount those of version 1.
LEGACY = ("cpu", "memory", "pids", "cpuset", "blkio")
_CURE = 'see "sbx doctor" for what gives this user control groups'
# In the order in which they are tried.
DRIVERS = ("delegated", "systemd", "root")


def _driver(name: str) -> Driver:
    if name == "systemd":
        from sandbox.services.cgroup import systemd

        return systemd
    if name == "root":
        from sandbox.services.cgroup import root

        return root
    from sandbox.services.cgroup import delegated

    return delegated


def _without_unified() -> str:
    held = [name for name in LEGACY if os.path.isdir(f"{UNIFIED}/{name}")]
    if held:
        return f"cgroup v1 holds {', '.join(held)}, which users cannot have"
    return f"no unified control groups (cgroup v2) on {UNIFIED}"


def find_group(wanted: str = "auto", *, asked: bool = True) -> Available:
    """What the first driver that works could make; `driver` is "" when none does, with causes.

    Speaking to systemd takes about as long as the rest of a start: "auto" does it only where
    limits were `asked` for.
    """
    if wanted == "none":
        return Available("", cause='resources.driver is "none"', cure="use another driver")
    if not os.path.exists(f"{UNIFIED}/cgroup.controllers"):
        return Available("", cause=_without_unified(), cure=_CURE)
    bare = None
    causes = []
    for name in DRIVERS if wanted == "auto" else (wanted,):
        if name == "systemd" and wanted == "auto" and not asked:
            causes.append("systemd: makes a scope where limits are asked for")
            continue
        found = _driver(name).find()
        if found.driver and found.controllers:
            return found
        if found.driver and bare is None:
            bare = found
        causes.append(f"{name}: {found.cause}")
    cause = "; ".join(causes)
    return (bare or Available("")).replace(cause=cause, cure=_CURE)


def make_group(available: Available, claim: Claim, launcher: int) -> Group:
    """Make the claimed group, into which `launcher` can clone. Raises HostError."""
    return _driver(available.driver).make(available, claim, launcher)


def enter_group(driver: str, path: str, inode: int, launcher: int) -> Group:
    """The group of a living sandbox, which `launcher` can clone into from now on.

    Raises HostError when it is not the one that it was.
    """
    from sandbox.services.cgroup.group import open_group

    group = open_group(path, inode)
    try:
        _driver(driver).admit(group, launcher)
    except BaseException:
        group.release()
        raise
    return group

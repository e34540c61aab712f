"""How a root file system gets a writable or read-only view, and what must be made before.

Owns the registry of storage drivers. The plan mounts; a driver only prepares a directory for it,
and what was prepared is removed with `remove_tree`.
"""

from __future__ import annotations

import os

from sandbox.plan.request import DISK_OVERLAY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.host.facts import HostFacts
    from sandbox.policy.model import Policy

    Notes = tuple[tuple[str, str], ...]
    Prepare = Callable[[str, str, Policy, HostFacts], Notes]


def prepare_nothing(rootfs: str, target: str, policy: Policy, facts: HostFacts) -> Notes:  # noqa: ARG001
    """For drivers that show the directory as it is."""
    return ()


def prepare_copy(rootfs: str, target: str, policy: Policy, facts: HostFacts) -> Notes:
    """Copy directory `rootfs` to the new directory `target`, with the ids that the run will have.

    Returns (what, cause) for each thing a sandbox on an overlay would see otherwise. Raises
    RootfsError when something could not be copied; `target` is removed then.
    """
    from sandbox.services.storage.prepared import copy_rootfs

    return copy_rootfs(rootfs, target, facts, single=policy.identity.map == "single")


def prepare_upper(rootfs: str, target: str, policy: Policy, facts: HostFacts) -> Notes:  # noqa: ARG001
    """Make the new directory `target` for the changes of an overlay."""
    os.mkdir(target, 0o700)
    return ()


DRIVERS: dict[str, Prepare] = {
    "overlay": prepare_nothing,
    DISK_OVERLAY: prepare_upper,
    "copy": prepare_copy,
    "bind": prepare_nothing,
}


def remove_tree(path: str, facts: HostFacts) -> None:
    """Remove `path` and everything below it, also files of the caller's subordinate ids.

    Nothing at `path` is no error. Follows no symlink; leaves what is mounted below it. Raises
    SbxError naming the first entries that could not be removed.
    """
    from sandbox.errors import SbxError
    from sandbox.services.storage.remove import first_problems, needs_map, remove_here

    path = os.path.abspath(path)
    problems = remove_here(path)
    lines = first_problems(problems)
    if problems and facts.uid != 0 and needs_map(problems):
        from sandbox.services.storage.mapped import run_mapped

        done = run_mapped("remove", path, facts=facts)
        if done.status == 0:
            return
        lines = tuple(done.output.splitlines()) or (done.words,)
    if lines:
        raise SbxError(f"cannot remove {path}", problems=lines)

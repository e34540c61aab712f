"""Groups in a part of the tree that is this user's by ownership.

cgroups(7), "no internal processes": a folder that gives controllers to its children has no
processes itself. So the sandbox's group lies in the nearest folder above this process that is
ours and empty; or below our own, where nobody but us is in it: then we move into a leaf.
"""

from __future__ import annotations

import os

from sandbox.plan.request import Available
from sandbox.services.cgroup import tree
from sandbox.services.cgroup.group import Claim, Group, claim_name, make_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def _ours(own: str) -> Iterator[str]:
    """Our own folder and those above it, up to where it ends to be ours."""
    folder = own
    while folder.count("/") > 1 and tree.is_ours(folder):
        gives = tree.unit_gives(folder)
        if gives is not False:
            yield folder
        if gives is not None:
            return
        folder = os.path.dirname(folder)


def find() -> Available:
    """The nearest folder that can have children with limits, else one with children without."""
    own = tree.own_folder()
    folders = list(_ours(own)) if own else []
    if not folders:
        return Available("", cause=f"{own or 'no group'} is not this user's to divide")
    for folder in folders:
        if not tree.words(folder, "cgroup.procs"):
            return _available(folder, tree.enable(folder))
    if tree.words(own, "cgroup.procs") == (str(os.getpid()),):
        there = tree.words(own, "cgroup.controllers")
        return _available(own, tuple(name for name in tree.WANTED if name in there))
    cause = f"{own} holds other processes, so that its children get no controllers"
    return Available("delegated", parent=own, cause=cause)


def _available(folder: str, controllers: tuple[str, ...]) -> Available:
    missing = [name for name in tree.WANTED if name not in controllers]
    return Available(
        "delegated",
        controllers,
        folder,
        tree.processors(folder),
        cause=f"{folder} does not give {', '.join(missing)}" if missing else "",
        cure="delegate these controllers as well (Delegate= of the unit)",
    )


def make(available: Available, claim: Claim, launcher: int) -> Group:
    """Make the claimed group in the folder that was found."""
    folder = available.parent
    inside = tree.words(folder, "cgroup.procs")
    if available.controllers and str(os.getpid()) in inside:
        own = claim_name("own-")
        leaf = make_folder(f"{folder}/{own.name}", own)
        for pid in (launcher, os.getpid()):
            tree.move(pid, leaf.path)
        leaf.keep()
    tree.enable(folder, available.controllers)
    return make_folder(f"{folder}/{claim.name}", claim)


def admit(group: Group, launcher: int) -> None:
    """Nothing: who may write here may clone into it, and who may not gets the kernel's answer."""
    del group, launcher

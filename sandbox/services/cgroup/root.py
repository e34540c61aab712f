"""Groups for the host's root: a folder of sbx's own below the top of the tree."""

from __future__ import annotations

import os

from sandbox.plan.request import Available
from sandbox.services.cgroup import UNIFIED, delegated, tree
from sandbox.services.cgroup.group import Claim, Group

FOLDER = f"{UNIFIED}/sbx"


def find() -> Available:
    """Whether the top gives anything to its children."""
    if os.geteuid() != 0:
        return Available("", cause="not run by root")
    try:
        os.makedirs(FOLDER, exist_ok=True)
    except OSError as error:
        return Available("", cause=f"{FOLDER}: {(error.strerror or '').lower()}")
    tree.enable(UNIFIED)
    given = tree.enable(FOLDER)
    cause = "" if given else f"{UNIFIED} gives no controllers to its children"
    return Available("root", given, FOLDER, tree.processors(FOLDER), cause=cause)


def make(available: Available, claim: Claim, launcher: int) -> Group:
    """Make the claimed group there."""
    return delegated.make(available, claim, launcher)


def admit(group: Group, launcher: int) -> None:
    """Nothing: root may move everything."""
    del group, launcher

"""What can be said of a kept sandbox, as plain values for JSON and for tables."""

from __future__ import annotations

from sandbox.runtime.history import read_history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.runtime.registry import Folder


def summary(folder: Folder) -> dict[str, object]:
    """One sandbox in the keys of `sbx ps --format json`. Times in seconds since the epoch."""
    known, life = folder.description, read_history(folder)
    return {
        "id": known.id,
        "name": known.name,
        "state": life.state,
        "exit_code": life.exit_code,
        "pid": known.pid if life.state not in ("exited", "dead") else None,
        "created_s": known.created_s,
        "started_s": life.started_s,
        "ended_s": life.ended_s,
        "restarts": max(0, life.starts - 1),
        "rootfs": known.rootfs,
        "argv": list(known.argv),
        "policy": known.policy,
        "network": known.network,
        "detached": known.detached,
    }

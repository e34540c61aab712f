"""The copy of a root file system as a step of a run: in the right map, judged, with its notes."""

from __future__ import annotations

from sandbox.errors import RootfsError, SbxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.host.facts import HostFacts


def copy_rootfs(
    rootfs: str, target: str, facts: HostFacts, *, single: bool
) -> tuple[tuple[str, str], ...]:
    """See `sandbox.services.storage.prepare_copy`."""
    import json

    from sandbox.services.storage.mapped import run_mapped

    complete = False
    try:
        done = run_mapped("copy", rootfs, target, facts=facts, single=single)
        try:
            found = json.loads(done.output)
        except ValueError:
            cause = done.words.rpartition("\n")[2] or f"the copy ended with status {done.status}"
            raise RootfsError(f"cannot copy {rootfs}", cause=cause) from None
        if found["errors"]:
            raise _refusal(rootfs, found)
        complete = True
        return tuple(_notes(found))
    finally:
        if not complete:
            _discard(target, facts)


def _discard(target: str, facts: HostFacts) -> None:
    from sandbox.services.storage import remove_tree

    try:
        remove_tree(target, facts)
    except SbxError:
        pass  # the reason why the copy failed matters more; the run's folder is cleaned anyway


def _shown(path: str) -> str:
    return path if path.isprintable() else ascii(path)[1:-1]


def _refusal(rootfs: str, found: dict[str, Any]) -> RootfsError:
    lines = tuple(f"{_shown(path) or '.'}: {text.lower()}" for path, text in found["problems"])
    more = found["errors"] - len(lines)
    if more:
        lines += (f"and {more} more",)
    count = "one entry" if found["errors"] == 1 else f"{found['errors']} entries"
    return RootfsError(f"cannot copy {count} of {rootfs}", problems=lines)


def _notes(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What differs from an overlay over the same directory, as (what, cause)."""
    notes = []
    if found["unreadable"]:
        names = ", ".join(_shown(path) for path in found["closed"])
        more = " …" if found["unreadable"] > len(found["closed"]) else ""
        notes.append(
            (
                f"{found['unreadable']} unreadable files are empty in the copy",
                f"they belong to users that have no number inside: {names}{more}",
            )
        )
    if found["mounts_skipped"]:
        notes.append((f"{found['mounts_skipped']} mounts below the root are left out", ""))
    if found["xattrs_dropped"]:
        cause = "the kernel does not let this user read them, or set them there"
        notes.append((f"{found['xattrs_dropped']} extended attributes are left out", cause))
    return notes

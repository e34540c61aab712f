"""HostFacts: what this machine can do for this user, as one frozen value.

Owns the shape only; `probe` finds the values by trying and caches them for one boot.
"""

from __future__ import annotations

from sandbox.record import Record


class HostFacts(Record):
    """`subuids`/`subgids`: (start, count) ranges of the caller, in file order, never overlapping.

    `newuidmap`/`newgidmap`: absolute path of the helper or "" when it is missing.
    `landlock_abi`: 0 when absent.
    `userns_error`, `overlay_error`, `proc_error`: "" when it works, else the reason in the kernel's
    words. `upper_memory_error`: why an overlay over changes in memory does not do all that one
    does, and then `upper_disk_error` likewise for changes in a folder of the cache.
    `subids_error`: why there are no ranges, "" when none were given to the caller.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    user_name: str
    arch: str
    kernel: tuple[int, int]
    subuids: tuple[tuple[int, int], ...]
    subgids: tuple[tuple[int, int], ...]
    newuidmap: str
    newgidmap: str
    userns_error: str
    overlay_error: str
    proc_error: str
    landlock_abi: int
    seccomp: bool
    time_namespace: bool
    subids_error: str = ""
    upper_memory_error: str = ""
    upper_disk_error: str = ""

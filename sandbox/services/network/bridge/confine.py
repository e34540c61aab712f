"""What a network's name server gives up before it reads its first question.

It stays root, for the files of networks are root's, but of root's rights it keeps the one to set up
networks, which nft needs to add what names lead to. It writes below the folder of networks alone,
and reads besides it what starting nft takes.
"""

from __future__ import annotations

from sandbox.services.network.bridge.definitions import BASE
from sandbox.services.network.confine import (
    EVERYTHING,
    EXECUTE,
    READ_DIR,
    READ_FILE,
    close_files,
    keep_capabilities,
    refuse_privileges,
)

_CAP_NET_ADMIN = 12
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
_READ = ("/etc/ld.so.cache", "/proc/sys/net", "/proc/sys/kernel/random")


def confine() -> None:
    """Give up all but the above, for good. Raises OSError with the step that failed."""
    keep_capabilities(_CAP_NET_ADMIN)
    refuse_privileges()
    close_files(
        [
            (BASE, EVERYTHING),
            *((path, EXECUTE | READ_FILE | READ_DIR) for path in _PROGRAMS),
            *((path, READ_FILE) for path in _READ),
        ]
    )

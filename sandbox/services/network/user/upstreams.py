"""The name servers of the host, as its resolv.conf(5) says them."""

from __future__ import annotations

import os

PATH = "/etc/resolv.conf"
_SIZE_MAX = 1 << 16
_MOST = 3  # MAXNS of <resolv.h>


def host_upstreams(path: str = PATH) -> tuple[tuple[str, int], ...]:
    """(address, port) of each; an address may be link-local with its interface: "fe80::1%eth0".

    A file that is missing or names none means a server on this machine, as it does to programs.
    """
    found: list[tuple[str, int]] = []
    for line in _read(path).decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and len(found) < _MOST:
            found.append((words[1], 53))
    return tuple(found) or (("127.0.0.1", 53),)


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _SIZE_MAX)
    except OSError:
        return b""
    finally:
        os.close(descriptor)

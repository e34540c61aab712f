"""What a network that is made by this program needs of the host: found by trying, for one boot.

Apart from HostFacts, so that runs without such a network never ask.
"""

from __future__ import annotations

import errno
import marshal
import os

from sandbox.host.probe import read_kernel_file, restrictions
from sandbox.linux import private_cache
from sandbox.linux.paths import state_dir
from sandbox.record import Record

TUN = "/dev/net/tun"
_FORMAT = 1
_LASTING = (0, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)


class NetworkFacts(Record):
    """Each is "" when it works, else the reason in the kernel's words.

    `tun_error`: a TUN device in a new network namespace. `tproxy_error`: rules of nf_tables that
    give connections to a transparent listener. `ipv6_error`: IPv6 addresses there.
    """

    tun_error: str
    tproxy_error: str
    ipv6_error: str


def network_facts(*, refresh: bool = False) -> NetworkFacts:
    """What this machine can do for the caller; never raises for what is missing."""
    folder = f"{state_dir()}/host"
    boot = read_kernel_file("/proc/sys/kernel/random/boot_id")
    key = repr((_FORMAT, "network", boot, os.getuid(), restrictions(), _device())).encode()
    body = None if refresh else private_cache.load(folder, key)
    try:
        found = marshal.loads(body or b"")  # noqa: S302 - only this user could have written it
        return NetworkFacts(*found)
    except (ValueError, EOFError, TypeError):
        pass
    from sandbox.host.attempt import Outcome, attempt

    whole = attempt("network")
    parts = [Outcome(*part) for part in whole.value] if whole.ok else [whole] * 3
    reasons = tuple(part.reason for part in parts)
    if all(part.errno in _LASTING for part in parts):
        private_cache.store(folder, key, marshal.dumps(reasons, 4))
    return NetworkFacts(*reasons)


def _device() -> tuple[int, ...]:
    try:
        found = os.stat(TUN)
    except OSError:
        return ()
    return found.st_rdev, found.st_mode, found.st_uid, found.st_gid

"""The doctor's checks of what confines and what starts a sandbox: Landlock, seccomp, the
launcher, devices and firewalls for networks, limits.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.errors import SbxError
from sandbox.host import cures
from sandbox.host.attempt import Outcome, attempt
from sandbox.host.cgroups import find_cgroups, pids_max
from sandbox.host.finding import Finding
from sandbox.host.probe import read_kernel_file, user_name
from sandbox.host.userns import container_signs, full_map
from sandbox.linux.paths import native

LANDLOCK_ABIS = (
    (2, "moves between folders"),
    (3, "truncate"),
    (4, "TCP bind and connect"),
    (5, "device ioctls"),
    (6, "abstract sockets and signals"),
)
FEWEST_PROCESSES = 256
_REINSTALL = "make setup"
_OVERFLOW_UID = 65534
_NO_NFTABLES = (errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL)


def check_landlock() -> Finding:
    """Landlock's ABI, and what it cannot restrict yet."""
    outcome = attempt("landlock")
    if outcome.ok:
        missing = [words for abi, words in LANDLOCK_ABIS if outcome.value < abi]
        if not missing:
            return Finding("landlock", "ok", f"ABI {outcome.value}")
        text = f"ABI {outcome.value} cannot restrict {', '.join(missing)}"
        return Finding("landlock", "warn", f"{text}; a newer kernel can")
    if outcome.errno == errno.EOPNOTSUPP:
        modules = read_kernel_file("/sys/kernel/security/lsm")
        fix = cures.boot_option(f"lsm=landlock,{modules}" if modules else "lsm=landlock,...")
        return Finding("landlock", "warn", "built in, but not switched on at boot", fix)
    return Finding(
        "landlock", "warn", f"{outcome.reason}; this kernel has none, or a filter hides it"
    )


def check_seccomp() -> Finding:
    """Whether filters can be loaded: no policy but permissive works without."""
    outcome = attempt("seccomp")
    if outcome.ok:
        return Finding("seccomp", "ok", "filters can be loaded")
    return Finding("seccomp", "fail", f"{outcome.reason}; the kernel needs CONFIG_SECCOMP_FILTER")


def check_seccomp_notify() -> Finding:
    """Whether a program can answer system calls of a sandbox."""
    outcome = attempt("seccomp_notify")
    if outcome.ok:
        return Finding("seccomp-notify", "ok", "calls can be answered by a supervisor")
    text = "a filter with a listener is already in force" if outcome.errno == errno.EBUSY else ""
    return Finding("seccomp-notify", "warn", "; ".join(filter(None, (outcome.reason, text))))


def _program_problem(path: str) -> str:
    """Why a native program of ours cannot be used, "" when it can."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode) or not os.access(path, os.X_OK | os.R_OK):
        return "is not a program that this user can read and execute"
    owners = {0, os.getuid()}
    if not full_map(read_kernel_file("/proc/self/uid_map")):
        owners.add(_OVERFLOW_UID)  # what root looks like where it has no number
    if found.st_mode & 0o022 or found.st_uid not in owners:
        return "can be changed by other users"
    with open(path, "rb") as file:
        head = file.read(5)
    return "" if head == b"\x7fELF\x02" else "is not a 64-bit ELF program"


def check_launcher() -> Finding:
    """The native programs of sbx itself."""
    paths = []
    for name, verdict in (("sbx-launcher", "fail"), ("sbx-idmap", "warn")):
        try:
            path = native(name)
        except SbxError as error:
            detail = f"{error.what}; {error.cause}"
            worst = Finding("launcher", "fail", detail, _REINSTALL)
            return worst if verdict == "fail" else worst.replace(verdict="warn")
        problem = _program_problem(path)
        if problem:
            return Finding("launcher", "fail", f"{path} {problem}", _REINSTALL)
        paths.append(path)
    return Finding("launcher", "ok", " and ".join(paths))


def check_memfd_exec() -> Finding:
    """Whether a sealed memory file can be executed, which is how the launcher runs."""
    outcome = attempt("memfd_exec")
    if outcome.ok:
        return Finding("sealed-program", "ok", "a sealed memory file can be executed")
    noexec = read_kernel_file("/proc/sys/vm/memfd_noexec")
    if noexec == "2":
        fix = cures.setting("vm.memfd_noexec", 1)
        return Finding("sealed-program", "fail", f"{outcome.reason}; vm.memfd_noexec is 2", fix)
    return Finding("sealed-program", "fail", f"{outcome.reason}; a security module may refuse it")


def check_tun() -> Finding:
    """/dev/net/tun: user-mode networks need it; policies without network do not."""
    outcome = attempt("tun")
    if outcome.ok:
        return Finding("tun", "ok", "/dev/net/tun makes interfaces in a network namespace")
    fix = ""
    if container_signs() and outcome.errno in {errno.ENOENT, errno.EPERM}:
        fix = "docker run --device /dev/net/tun ..."
    elif outcome.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
        fix = cures.module("tun")
    elif outcome.errno == errno.EACCES:
        fix = cures.tun_access(user_name(os.getuid()))
    return Finding("tun", "warn", f"{outcome.reason}; needed by user-mode networks only", fix)


def check_nftables() -> Finding:
    """Firewall rules in a network namespace: filtered networks need them."""
    outcome = attempt("nftables")
    if outcome.ok:
        text = f"{outcome.value} tables can be made in a network namespace"
        return Finding("nftables", "ok", text)
    detail, fix = outcome.reason, ""
    if outcome.errno in _NO_NFTABLES and os.path.isdir("/sys/module/nf_tables"):
        detail += " (this kernel is built without the inet and ip families)"
    elif outcome.errno in _NO_NFTABLES:
        fix = cures.module("nf_tables")
    return Finding("nftables", "warn", f"{detail}; needed by filtered networks only", fix)


def check_user_network() -> Finding:
    """What --network user has here: the device, the rules, IPv6."""
    outcome = attempt("network")
    tun, tproxy, ipv6 = (Outcome(*part) for part in outcome.value or ((None, "", 0, ""),) * 3)
    if not outcome.ok or not tproxy.ok:
        reason = tproxy.reason or outcome.reason
        fix = cures.module("nft_tproxy") if tproxy.errno in _NO_NFTABLES else ""
        return Finding("user-network", "warn", f"{reason}; --network user is refused", fix)
    if not tun.ok:
        text = "without a TUN device connections are accepted before they are judged, and only TCP "
        return Finding("user-network", "warn", f"{text}and names work: {tun.reason}")
    families = "IPv4 and IPv6" if ipv6.ok else f"IPv4 alone ({ipv6.reason})"
    return Finding("user-network", "ok", f"--network user reaches {families}")


def check_processes() -> Finding:
    """The limits on processes that a sandbox inherits."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    mountinfo = read_kernel_file("/proc/self/mountinfo")
    group = pids_max(find_cgroups(mountinfo, read_kernel_file("/proc/self/cgroup")))
    words = [
        f"ulimit -u is {'unlimited' if soft < 0 else soft}",
        f"pids.max is {'not set' if group < 0 else group}",
    ]
    low = [limit for limit in (soft, group) if 0 <= limit < FEWEST_PROCESSES]
    if not low:
        return Finding("processes", "ok", "; ".join(words))
    can_raise = 0 <= soft < FEWEST_PROCESSES and (hard < 0 or hard >= FEWEST_PROCESSES)
    fix = f"ulimit -u {'unlimited' if hard < 0 else hard}" if can_raise else ""
    return Finding("processes", "warn", f"{'; '.join(words)}: builds may run out of them", fix)

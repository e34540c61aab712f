"""The doctor's checks of namespaces and identity: what every sandbox is made of.

Each check tries the operation and returns one Finding. The explanations of failing user
namespaces live in `userns`.
"""

from __future__ import annotations

import errno
import os

from sandbox.errors import SbxError
from sandbox.host import cures, subids, userns
from sandbox.host.attempt import Outcome, attempt
from sandbox.host.finding import Finding
from sandbox.host.helpers import HELPER_FOLDERS, find_helper, helper_problem
from sandbox.host.probe import (
    kernel_version,
    masked_proc,
    read_kernel_file,
    user_name,
)
from sandbox.linux.paths import native

OLDEST_KERNEL = (5, 12)  # mount_setattr; overlay in user namespaces came with 5.11
SUPPORTED_KERNEL = (5, 15)
TMPFS_XATTR_KERNEL = (6, 6)  # user.* on tmpfs, which overlay's userxattr wants


def check_kernel() -> Finding:
    """Whether the kernel has the calls that the launcher cannot do without."""
    release = os.uname().release
    version = kernel_version(release)
    if version < OLDEST_KERNEL:
        text = "before 5.12: no mount_setattr(2), no overlay in user namespaces before 5.11"
        return Finding("kernel", "fail", f"Linux {release} is too old, {text}")
    if version < SUPPORTED_KERNEL:
        return Finding("kernel", "warn", f"Linux {release} is older than 5.15 and not tested")
    if version < TMPFS_XATTR_KERNEL:
        text = "before 6.6 tmpfs has no user xattrs, see overlay-memory"
        return Finding("kernel", "ok", f"Linux {release}; {text}")
    return Finding("kernel", "ok", f"Linux {release}")


def check_caller() -> Finding:
    """Who runs this: root is never needed."""
    uid = os.getuid()
    if uid == 0 and userns.full_map(read_kernel_file("/proc/self/uid_map")):
        text = "runs as root, which sbx does not need: an ordinary user is enough, and safer"
        return Finding("caller", "ok", text)
    return Finding("caller", "ok", f"runs as {user_name(uid)} ({uid}), no further rights needed")


def check_nested() -> Finding:
    """Whether this program is itself in a container, and what that takes away."""
    signs = userns.container_signs()
    covered = masked_proc(read_kernel_file("/proc/self/mountinfo"))
    filtered = userns.under_seccomp(read_kernel_file("/proc/self/status"))
    limits = [f"hides parts of /proc ({covered[0]})"] if covered else []
    limits += ["filters system calls"] if filtered else []
    if not userns.full_map(read_kernel_file("/proc/self/uid_map")):
        limits.append("has only some user ids")
    if not signs and not limits:
        return Finding("nested", "ok", "not in a container")
    text = "; ".join(signs) or "no container named itself"
    if not limits:
        return Finding("nested", "ok", f"perhaps in a container ({text}), which restricts nothing")
    return Finding("nested", "warn", f"in a container ({text}) that {' and '.join(limits)}")


def _userns_failure(name: str, outcome: Outcome) -> Finding:
    found = userns.explain(outcome.errno)
    detail = f"{outcome.reason}; {found.cause}; {found.hint}"
    return Finding(name, "fail", detail, found.fix)


def check_userns() -> Finding:
    """A user namespace, mounts private in it, and a second one inside as the payload gets."""
    outcome = attempt("userns")
    if outcome.ok:
        return Finding("user-namespaces", "ok", "an outer and an inner one can be made")
    return _userns_failure("user-namespaces", outcome)


def check_namespaces() -> Finding:
    """The other kinds of namespaces."""
    outcome = attempt("namespaces")
    if not outcome.ok:
        return _userns_failure("namespaces", outcome)
    if not outcome.value:
        return Finding("namespaces", "ok", "mount, pid, network, ipc, uts and cgroup can be made")
    words = ", ".join(f"{name} ({reason})" for name, reason in outcome.value)
    kinds = {"mount": "mnt", "network": "net"}
    fixes = []
    for name, _ in outcome.value:
        sysctl = f"user.max_{kinds.get(name, name)}_namespaces"
        if read_kernel_file(f"/proc/sys/{sysctl.replace('.', '/', 1)}") == "0":
            fixes.append(cures.setting(sysctl, 15000))
    return Finding("namespaces", "fail", f"refused: {words}", "\n".join(fixes))


def check_time_namespace() -> Finding:
    """Own clock offsets: strict wants them."""
    outcome = attempt("time_namespace")
    if outcome.ok:
        return Finding("time-namespace", "ok", "can be made")
    why = "; the kernel is built without CONFIG_TIME_NS" if outcome.errno == errno.EINVAL else ""
    text = "the sandbox sees the host's uptime"
    return Finding("time-namespace", "warn", f"{outcome.reason}{why}; {text}")


def check_proc() -> Finding:
    """A fresh /proc that shows only the sandbox's own processes."""
    outcome = attempt("proc")
    if outcome.ok:
        return Finding("proc", "ok", "a fresh /proc can be mounted")
    covered = masked_proc(read_kernel_file("/proc/self/mountinfo"))
    if outcome.errno == errno.EPERM and covered:
        text = f"the outer container hides parts of /proc, such as {covered[0]}"
        fix = "docker run --security-opt systempaths=unconfined ..."
        fix += "\npodman run --security-opt unmask=ALL ..."
        return Finding("proc", "fail", f"{outcome.reason}; {text}", fix)
    return Finding("proc", "fail", outcome.reason)


# ---- identity ----


def _free_range(*paths: str) -> str:
    """A range of 65,536 ids that no line of the files uses, as START-END."""
    start = 100000
    for path in paths:
        for line in read_kernel_file(path).split("\n"):
            parts = line.split(":")
            if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
                start = max(start, int(parts[1]) + int(parts[2]))
    return f"{start}-{start + 65535}"


def _ranges() -> tuple[subids.SubIds, subids.SubIds]:
    """The caller's subordinate user and group ids, or root's own; raises HostError on overlaps."""
    uid = os.getuid()
    name = user_name(uid)
    found = (
        subids.read_subids("uid", name, uid, uid),
        subids.read_subids("gid", name, uid, os.getgid()),
    )
    if uid == 0:
        found = (_or_roots_own(found[0]), _or_roots_own(found[1]))
    return found


def _or_roots_own(found: subids.SubIds) -> subids.SubIds:
    if found.ranges:
        return found
    return subids.SubIds(subids.ROOT_RANGE, found.source, found.problems)


def check_subids() -> Finding:
    """Ranges of subordinate ids: without them only one id can exist inside."""
    name = user_name(os.getuid())
    try:
        found = _ranges()
    except SbxError as error:
        return Finding("subordinate-ids", "warn", f"{error.what}; {error.cause}; {error.hint}")
    counts = [sum(count for _, count in item.ranges) for item in found]
    if min(counts) >= subids.DEFAULT_IDS - 1:
        text = " and ".join(
            f"{count} {kind} ids" for count, kind in zip(counts, ("user", "group"), strict=True)
        )
        skipped = [problem for item in found for problem in item.problems]
        if subids.ROOT_RANGE in (found[0].ranges, found[1].ranges):
            text += f" from {subids.ROOT_RANGE[0][0]} on, which need no grant,"
        return Finding("subordinate-ids", "ok", "; ".join([f"{text} for {name}", *skipped[:3]]))
    free = _free_range("/etc/subuid", "/etc/subgid")
    text = f"{counts[0]} user and {counts[1]} group ids for {name}, 65535 are wanted"
    text += "; without them only the caller's own id can exist inside"
    fix = f"sudo usermod --add-subuids {free} --add-subgids {free} {name}"
    return Finding("subordinate-ids", "warn", text, fix)


def check_helpers() -> Finding:
    """newuidmap and newgidmap, at fixed paths and with the rights they need."""
    paths = [find_helper(name) for name in ("newuidmap", "newgidmap")]
    if all(paths):
        return Finding("id-helpers", "ok", " and ".join(paths))
    problems = []
    for name in ("newuidmap", "newgidmap"):
        for folder in HELPER_FOLDERS:
            path = f"{folder}/{name}"
            if os.path.lexists(path) and (problem := helper_problem(path)):
                problems.append(f"{path} {problem}")
    text = "; ".join(problems[:2]) or "newuidmap and newgidmap are not installed"
    # A mount or a flag of this process is what no package cures.
    outside = any(word in text for word in ("nosuid", "no_new_privs"))
    fix = "" if outside else cures.id_helpers(installed=bool(problems))
    return Finding("id-helpers", "warn", f"{text}; subordinate ids cannot be mapped", fix)


def _map_text(own: int, ranges: tuple[tuple[int, int], ...]) -> str:
    extents = subids.range_map(own, ranges)
    return ",".join(f"{inside}:{outside}:{count}" for inside, outside, count in extents)


def check_id_map() -> Finding:
    """The whole map of the caller and its ranges, really installed on a child."""
    name = "id-map"
    helpers = [find_helper("newuidmap"), find_helper("newgidmap")]
    try:
        uids, gids = (found.ranges for found in _ranges())
    except SbxError as error:
        return Finding(name, "warn", f"not tried: {error.what}")
    if subids.ROOT_RANGE in (uids, gids):
        return _check_own_map(uids, gids)
    if not all(helpers) or not uids or not gids:
        return Finding(name, "warn", "not tried: needs subordinate ids and both helpers")
    texts = [_map_text(os.getuid(), uids), _map_text(os.getgid(), gids)]
    try:
        outcome = attempt("id_map_with", native("sbx-idmap"), *texts, *helpers)
        way = "sbx-idmap"
    except SbxError:
        outcome = attempt("id_map", *texts, *helpers)
        way = "newuidmap and newgidmap"
    if outcome.ok:
        return Finding(name, "ok", f"all subordinate ids can be mapped with {way}")
    return Finding(name, "warn", f"{outcome.reason}; only one id can exist inside")


def _check_own_map(uids: tuple[subids.Range, ...], gids: tuple[subids.Range, ...]) -> Finding:
    """The map that root writes itself: the helpers would ask for a grant."""
    texts = [_map_text(os.getuid(), uids), _map_text(os.getgid(), gids)]
    try:
        outcome = attempt("id_map_with", native("sbx-idmap"), *texts, "", "")
    except SbxError as error:
        return Finding("id-map", "warn", f"not tried: {error.what}")
    if outcome.ok:
        return Finding("id-map", "ok", "root maps ids without the helpers")
    return Finding("id-map", "warn", f"{outcome.reason}; only one id can exist inside")

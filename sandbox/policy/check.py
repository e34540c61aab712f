"""What people ask about policies: what one allows more than its parent, and which exist.

Only restricting a parent is unremarkable; `widenings` names everything else. It compares two
finished policies, so it does not matter how a file spells its wishes.
"""

from __future__ import annotations

import os

from sandbox.errors import SbxError
from sandbox.policy import model
from sandbox.policy.load import SUFFIX, Layer, load_policy, names, read_policy, search_path
from sandbox.policy.merge import build_policy
from sandbox.policy.show import format_rlimit
from sandbox.policy.units import format_duration, format_rate, format_size, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

BASELINE = "strict"
_UNBOUNDED = float("inf")

# Values of closed sets, the narrowest first.
_RANKS: dict[str, Sequence[object]] = {
    "identity.map": ("single", "keep-id", "range", model.NO_MAP),
    "identity.root": (False, True),
    "identity.privileged": (False, True),
    "filesystem.guard": (True, False),
    "namespaces.time": (True, False),
    "namespaces.nested": (False, True),
    "namespaces.ipc": (model.PRIVATE, model.CONTAINER),
    "namespaces.uts": (model.PRIVATE, model.CONTAINER),
    "namespaces.pid": (model.PRIVATE, model.CONTAINER),
    "filesystem.read_only": (True, False),
    "filesystem.proc": model.PROC_MODES,
    "filesystem.sys": model.SYS_MODES,
    "network.mode": (model.NETWORK_MODES[0], model.CONTAINER, *model.NETWORK_MODES[1:]),
    "network.loopback": (False, True),
    "network.sni": (True, False),
    "process.init": (True, False),
    "process.tty": (False, True),
    "seccomp.base": model.SECCOMP_BASES,
    "landlock.fs": model.LANDLOCK_FS,
    "landlock.tcp": (True, False),
    "landlock.ioctl_dev": (True, False),
    "resources.required": (True, False),
}
# Lists where more entries allow more, and lists where fewer do.
_GRANTS = (
    *("namespaces.shares", "namespaces.shareable", "filesystem.devices"),
    *("process.env_pass", "capabilities.keep", "capabilities.add", "seccomp.sockets"),
    *("network.allow", "network.publish"),
)
_DENIALS = (
    "filesystem.masked",
    "filesystem.locked",
    "network.deny",
    "seccomp.groups",
    "landlock.scopes",
)
# Bounds: (what 0 stands for, how it is shown).
_BOUNDS: dict[str, tuple[float, Callable[[Any], str]]] = {
    "filesystem.size": (model.DEFAULT_SIZE, format_size),
    "filesystem.inodes": (model.DEFAULT_INODES, str),
    "filesystem.shm": (model.DEFAULT_SHM, format_size),
    "resources.memory": (_UNBOUNDED, format_size),
    "resources.cpus": (_UNBOUNDED, "{:g}".format),
    "resources.pids": (_UNBOUNDED, str),
    "resources.memory_reservation": (0, format_size),
    "resources.cpu_weight": (100, str),
    "resources.io_weight": (100, str),
    "network.rate": (_UNBOUNDED, lambda value: f"{format_rate(value)}bit/s"),
    "network.connections": (_UNBOUNDED, str),
    "network.connections_per_second": (_UNBOUNDED, str),
    "process.timeout": (_UNBOUNDED, format_duration),
    "process.grace": (0, format_duration),
    "process.output_limit": (_UNBOUNDED, format_size),
}


def widenings(layers: Sequence[Layer]) -> list[str]:
    """Each way in which the last layer allows more than the ones below it: "key: what".

    `layers` are as `load_policy` returns them. A policy that extends nothing is compared with
    the built-in "strict". Raises PolicyError when one of the policies is wrong.
    """
    child = build_policy(layers)
    below = list(layers[:-1]) or load_policy(BASELINE)
    return compare(build_policy(below), child)


def compare(parent: model.Policy, child: model.Policy) -> list[str]:
    """Each way in which `child` allows more than `parent`."""
    return [
        *_ranked(parent, child),
        *_listed(parent, child),
        *_bounded(parent, child),
        *_files(parent.filesystem, child.filesystem),
        *_limits(parent, child),
        *_resources(parent.resources, child.resources),
        *_others(parent, child),
    ]


def _ranked(parent: model.Policy, child: model.Policy) -> Iterable[str]:
    for key, order in _RANKS.items():
        old, new = parent.value(key), child.value(key)
        if _rank(order, new) > _rank(order, old):
            vain = key == "network.loopback" and child.landlock.tcp
            note = ", but TCP over it needs landlock.tcp = false" if vain else ""
            yield f"{key}: {quote(old)} becomes {quote(new)}{note}"


def _rank(order: Sequence[object], value: object) -> int:
    shared = isinstance(value, str) and value.startswith(model.CONTAINER)
    return order.index(model.CONTAINER if shared else value)


def _listed(parent: model.Policy, child: model.Policy) -> Iterable[str]:
    for key in (*_GRANTS, *_DENIALS):
        if key == "seccomp.groups" and not parent.seccomp.base == child.seccomp.base == "deny":
            continue  # groups mean nothing without a deny-list; a wider base is named
        grants = key in _GRANTS
        old, new = parent.value(key), child.value(key)
        more, less = (new, old) if grants else (old, new)
        changed = [item for item in more if item not in less and not _absent(child, item)]
        if changed:
            yield f"{key}: {'adds' if grants else 'drops'} {', '.join(changed)}"


def _absent(policy: model.Policy, item: str) -> bool:
    """Whether a path that would be masked or locked does not exist inside at all."""
    files = policy.filesystem
    of_proc = files.proc == "pid" and item.startswith("/proc/")
    return of_proc or (files.sys == "none" and item.startswith("/sys/"))


def _bounded(parent: model.Policy, child: model.Policy) -> Iterable[str]:
    for key, (zero, show) in _BOUNDS.items():
        old, new = parent.value(key), child.value(key)
        if (new or zero) > (old or zero):
            yield f"{key}: {_bound(old, zero, show)} becomes {_bound(new, zero, show)}"


def _bound(value: float, zero: float, show: Callable[[Any], str]) -> str:
    value = value or zero
    return "no bound" if value == _UNBOUNDED else show(value)


def _files(old: model.Filesystem, new: model.Filesystem) -> Iterable[str]:
    if new.root == "bind" != old.root and not new.read_only:
        yield 'filesystem.root: "bind" without read_only lets the payload write to ROOTFS itself'
    if new.persist and new.persist != old.persist:
        yield f"filesystem.persist: what is written stays in {quote(new.persist)}"
    known = {mount.target: mount for mount in old.mounts}
    for mount in new.mounts:
        before = known.get(mount.target)
        if before and before.source == mount.source and before.read_only <= mount.read_only:
            continue
        way = "read-only" if mount.read_only else "writable"
        yield f"filesystem.mounts.{mount.target}: shows {quote(mount.source)}, {way}"
    tmpfs = {entry.target: entry for entry in old.tmpfs}
    for entry in new.tmpfs:
        yield from _tmpfs(tmpfs.get(entry.target), entry)


def _tmpfs(old: model.Tmpfs | None, new: model.Tmpfs) -> Iterable[str]:
    key = f"filesystem.tmpfs.{new.target}"
    executable = not new.noexec and (old is None or old.noexec)
    if old is None:
        more = " without noexec" if executable else ""
        yield f"{key}: a new writable place of {format_size(new.size)}{more}"
        return
    if executable:
        yield f"{key}: loses noexec"
    if new.size > old.size:
        yield f"{key}: {format_size(old.size)} becomes {format_size(new.size)}"
    if new.inodes > old.inodes:
        yield f"{key}: {old.inodes} inodes become {new.inodes}"


def _limits(parent: model.Policy, child: model.Policy) -> Iterable[str]:
    wanted = {limit.name: limit for limit in child.rlimits}
    for old in parent.rlimits:
        new = wanted.get(old.name)
        if new is None:
            yield f"rlimits.{old.name}: is the caller's own again"
        elif _above(old.name, new.soft, old.soft) or _above(old.name, new.hard, old.hard):
            yield f"rlimits.{old.name}: {format_rlimit(old)} becomes {format_rlimit(new)}"


def _above(name: str, new: int | None, old: int | None) -> bool:
    if name == "core" and 1 in (new, old):
        # core(5): of all values, 0 included, only 1 keeps the host's core handler from running.
        return new != 1
    return old is not None and (new is None or new > old)


def _resources(old: model.Resources, new: model.Resources) -> Iterable[str]:
    if new.driver == "none" != old.driver:
        yield 'resources.driver: "none" gives up every limit of the sandbox as a whole'
    if _swap(new) > _swap(old):
        yield f"resources.memory_swap: {_swap_words(old)} becomes {_swap_words(new)}"
    if old.cpuset and new.cpuset != old.cpuset:
        to = quote(new.cpuset) if new.cpuset else "every processor"
        yield f"resources.cpuset: {quote(old.cpuset)} becomes {to}"
    lost = [entry for entry in old.io_max if entry not in new.io_max]
    if lost:
        yield f"resources.io_max: drops {', '.join(lost)}"


def _swap(wanted: model.Resources) -> float:
    """How much swap may be used."""
    if wanted.memory is None or wanted.memory_swap is None:
        return _UNBOUNDED
    return max(0, wanted.memory_swap - wanted.memory)


def _swap_words(wanted: model.Resources) -> str:
    found = _swap(wanted)
    return "no bound of swap" if found == _UNBOUNDED else f"{format_size(int(found))} of swap"


def _is_root(identity: model.Identity) -> bool:
    by_default = identity.user is None and identity.map == "range" and identity.root
    return by_default or identity.user in {0, "root"}


def _is_name(user: int | str | None, before: int | str | None) -> bool:
    return isinstance(user, str) and user != before


def _others(parent: model.Policy, child: model.Policy) -> Iterable[str]:
    if _is_root(child.identity) and not _is_root(parent.identity):
        yield "identity.user: the payload has user id 0"
    elif child.identity.root and _is_name(child.identity.user, parent.identity.user):
        yield f"identity.user: ROOTFS decides which number {quote(child.identity.user)} has"
    if child.network.name != parent.network.name:
        yield f"network.name: {quote(child.network.name)} is another network of the host's"
    if child.seccomp.profile and child.seccomp.profile != parent.seccomp.profile:
        yield f"seccomp.profile: {quote(child.seccomp.profile)} replaces the filter"
    if parent.seccomp.profile and not child.seccomp.profile:
        yield f"seccomp.profile: {quote(parent.seccomp.profile)} is not used any more"
    settings = dict(parent.sysctls)
    for name, value in child.sysctls:
        if settings.get(name) != value:
            yield f"sysctls.{name}: set to {quote(value)}"
    for name in settings.keys() - dict(child.sysctls).keys():
        yield f"sysctls.{name}: is not set any more"
    for layer in model.LAYERS:
        if parent.refuses(layer) and not child.refuses(layer):
            yield f"on_missing.{layer}: refuse becomes degrade"


def available(search: tuple[str, ...] | None = None) -> list[tuple[str, str, str]]:
    """Every policy that a name finds: (name, path, summary), by name.

    The summary is the file's `summary`, else its first comment; a file that cannot be read says
    so there.
    """
    folders = search_path() if search is None else search
    found = []
    for name in names(folders):
        path = next(
            p for p in (f"{folder}/{name}{SUFFIX}" for folder in folders) if os.path.lexists(p)
        )
        found.append((name, path, _summary(path)))
    return found


def _summary(path: str) -> str:
    try:
        content = read_policy(path, path)
    except SbxError as error:
        return f"cannot be read: {error.cause or error.what}"
    summary = content.get("summary")
    if isinstance(summary, str) and summary:
        return summary.partition("\n")[0]
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith("#"):
                return line.lstrip("# ").rstrip("\n")
    return ""

"""The keys of a policy file and the check of each: the one list that everything derives from.

Field names and meanings are `model`'s, except for the keys that only files have: `extends`,
`summary`, `capabilities.drop`.
"""

from __future__ import annotations

from sandbox.policy import fields
from sandbox.policy.fields import (
    Bad,
    bad,
    boolean,
    capability_list,
    choice,
    duration,
    each,
    inside,
    line,
    memory_size,
    optional,
    string,
    suggest,
    table,
)
from sandbox.policy.model import (
    CGROUP_DRIVERS,
    CONTAINER,
    ID_MAP_KINDS,
    LANDLOCK_FS,
    LANDLOCK_SCOPES,
    LAYERS,
    NETWORK_MODES,
    ON_MISSING,
    PRIVATE,
    PROC_MODES,
    RLIMIT_NAMES,
    ROOT_MODES,
    SECCOMP_BASES,
    SECCOMP_GROUPS,
    SHAREABLE,
    SOCKET_FAMILIES,
    SYS_MODES,
)
from sandbox.policy.units import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.policy.fields import Check

# Settings of the kernel that belong to the sandbox's own ipc namespace; all of net.* belongs to
# its own network namespace.
_IPC_SYSCTLS = (
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
)
_SYSCTL_MAX = 256
# What a mount may put into /dev: the node at its own name, so that nothing poses as another.
SHM = "/dev/shm"  # noqa: S108 - a path inside the sandbox
NAMED_DEVICES = ("/dev/fuse", "/dev/kvm", "/dev/net/tun")
# A few steps each, of the 4096 that a plan may have.
MOUNTS_MAX = 512
RULES_MAX = 4096
SERVERS_MAX = 8
_KERNEL_FOLDERS = ("/proc", "/sys", "/dev")


def target(value: object) -> str:
    """Where a mount goes: not "/" itself, and of the kernel's folders only what is named."""
    path: str = inside(value)
    if path == "/":
        raise bad('must not be "/"; ROOTFS is what is mounted there')
    for folder in _KERNEL_FOLDERS:
        if path == folder or path.startswith(f"{folder}/"):
            if path in {SHM, *NAMED_DEVICES} or path.startswith(f"{SHM}/"):
                return path
            allowed = ", ".join((SHM, *NAMED_DEVICES))
            more = f"; of /dev only {allowed} can be mounted" if folder == "/dev" else ""
            raise bad(f"must not be {folder} or below it, found {quote(path)}{more}")
    return path


def device(value: object) -> str:
    """A node of the host's /dev."""
    path: str = inside(value)
    if not path.startswith("/dev/") or path.startswith(("/dev/pts", SHM, "/dev/mqueue")):
        raise bad(f"must be a device in /dev, found {quote(path)}")
    return path


def covered(value: object) -> str:
    """A path inside that is masked or locked."""
    path: str = inside(value)
    if path == "/":
        raise bad('must not be "/"; use filesystem.read_only')
    return path


def mount(value: object) -> dict[str, Any]:
    """One bind mount; a device is mounted at its own name."""
    found: dict[str, Any] = _mount(value)
    if found["target"] in NAMED_DEVICES and found["source"] != found["target"]:
        name = quote(found["target"])
        raise Bad((".target", f"{name} can only be the host's own {name}"), partial=found)
    return found


_mount = fields.fields(
    {"source": fields.path, "target": target, "read_only": boolean, "optional": boolean},
    required=("source", "target"),
)


def tmpfs_target(value: object) -> str:
    """Where a tmpfs goes; /dev/shm has a key of its own, devices are no folders."""
    path = target(value)
    if path == SHM:
        raise bad("has a tmpfs already; set its size with filesystem.shm")
    if path in NAMED_DEVICES:
        raise bad(f"{quote(path)} is a device")
    return path


_tmpfs = fields.fields(
    {
        "target": tmpfs_target,
        "size": fields.tmpfs_size,
        "inodes": fields.integer(1, 1 << 40),
        "mode": fields.mode,
        "noexec": boolean,
    },
    required=("target",),
)


def sysctls(value: object) -> dict[str, Any]:
    """Settings by full name; tables that TOML made of dotted keys are joined again."""
    if not isinstance(value, dict):
        raise bad(f"must be a table, found {quote(value)}")
    checked: dict[str, Any] = table(_sysctl_name, _sysctl_value)(_flatten(value))
    return checked


def _flatten(value: dict[Any, Any], depth: int = 0) -> dict[Any, Any]:
    flat: dict[Any, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict) and depth < 16 and item:
            flat.update({f"{name}.{rest}": v for rest, v in _flatten(item, depth + 1).items()})
        else:
            flat[name] = item
    return flat


def _sysctl_name(value: object) -> str:
    name: str = line(value)
    parts = name.split(".")
    plain = name.replace(".", "a").replace("_", "a").replace("-", "a")
    if not (plain.isascii() and plain.isalnum()) or "" in parts or len(name) > _SYSCTL_MAX:
        raise bad("is not the name of a kernel setting")
    if (
        not name.startswith("net.")
        and name not in _IPC_SYSCTLS
        and not name.startswith("fs.mqueue.")
    ):
        raise bad(
            "is a setting of the whole host; use net.*, fs.mqueue.*, kernel.sem, "
            f"kernel.msg* or kernel.shm*{suggest(name, _IPC_SYSCTLS)}"
        )
    return name


def _sysctl_value(value: object) -> str | bool:
    if value is False:
        return False
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
        return str(value)
    if not isinstance(value, str):
        raise bad(f"must be a string or a number, or false to remove it, found {quote(value)}")
    text: str = line(value)
    if not text or len(text) > _SYSCTL_MAX:
        raise bad(f"must have 1 to {_SYSCTL_MAX} characters, found {quote(text)}")
    return text


def _or_shared(check: Check) -> Check:
    """Like `check`; "container:NAME" means that of a running sandbox, by name or id."""

    def check_all(value: object) -> str:
        if not isinstance(value, str) or not value.startswith(CONTAINER):
            try:
                return str(check(value))
            except Bad as error:
                (below, text), *_ = error.findings
                raise Bad((below, f"{text}, or {CONTAINER}NAME")) from None
        name: str = line(value).removeprefix(CONTAINER)
        plain = name.replace("_", "a").replace(".", "a").replace("-", "a")
        if not (plain.isascii() and plain.isalnum()) or name[0] in "-._":
            raise bad(f"must be {CONTAINER}NAME with a sandbox's name or id, found {quote(value)}")
        return value

    return check_all


_COUNT = fields.integer(0, 1 << 40)
_WEIGHT = fields.integer(0, 10000)

SECTIONS: dict[str, dict[str, Check]] = {
    "identity": {
        "map": choice(ID_MAP_KINDS, "map"),
        "user": optional(fields.account),
        "group": optional(fields.account),
        "root": boolean,
        "privileged": boolean,
    },
    "namespaces": {
        "time": boolean,
        "nested": boolean,
        "ipc": _or_shared(choice((PRIVATE,), "namespace")),
        "uts": _or_shared(choice((PRIVATE,), "namespace")),
        "pid": _or_shared(choice((PRIVATE,), "namespace")),
        "shares": each(choice(SHAREABLE, "namespace to share")),
        "shareable": each(choice(SHAREABLE, "namespace to share")),
    },
    "filesystem": {
        "root": choice(ROOT_MODES, "root"),
        "read_only": boolean,
        "size": memory_size,
        "inodes": _COUNT,
        "persist": optional(fields.path),
        "mounts": each(mount, MOUNTS_MAX),
        "tmpfs": each(_tmpfs, MOUNTS_MAX),
        "shm": memory_size,
        "proc": choice(PROC_MODES, "way to show /proc"),
        "sys": choice(SYS_MODES, "way to show /sys"),
        "masked": each(covered),
        "locked": each(covered),
        "guard": boolean,
        "devices": each(device, MOUNTS_MAX),
    },
    "network": {
        "mode": _or_shared(choice(NETWORK_MODES, "mode")),
        "loopback": boolean,
        "allow": each(fields.rule, RULES_MAX),
        "deny": each(fields.rule, RULES_MAX),
        "dns": each(fields.name_server, SERVERS_MAX),
        "publish": each(fields.publish, RULES_MAX),
        "mtu": fields.integer(1280, 65520),
        "sni": boolean,
        "connections": fields.integer(0, 65536),
        "connections_per_second": fields.integer(0, 1 << 20),
        "name": fields.network_name,
        "aliases": each(fields.hostname),
        "rate": fields.bit_rate,
        "delay": fields.short_delay,
        "loss": fields.percent,
    },
    "process": {
        "env": table(fields.env_name, fields.env_value),
        "env_pass": each(fields.passed_name),
        "cwd": optional(inside),
        "hostname": fields.hostname,
        "timeout": duration,
        "grace": duration,
        "output_limit": fields.size,
        "init": boolean,
        "tty": boolean,
    },
    "capabilities": {"keep": capability_list, "add": capability_list, "drop": capability_list},
    "seccomp": {
        "base": choice(SECCOMP_BASES, "base"),
        "groups": each(choice(SECCOMP_GROUPS, "group")),
        "sockets": each(choice(SOCKET_FAMILIES, "socket family")),
        "profile": optional(line),
    },
    "landlock": {
        "fs": choice(LANDLOCK_FS, "way to confine files"),
        "tcp": boolean,
        "ioctl_dev": boolean,
        "scopes": each(choice(LANDLOCK_SCOPES, "scope")),
    },
    "resources": {
        "driver": choice(CGROUP_DRIVERS, "driver"),
        "memory": fields.group_memory,
        "memory_swap": fields.unlimited_or(fields.size),
        "memory_reservation": memory_size,
        "cpus": fields.cpus,
        "cpu_weight": _WEIGHT,
        "cpuset": fields.cpuset,
        "pids": fields.unlimited_or(fields.integer(1, 1 << 22)),
        "io_max": each(fields.io_max),
        "io_weight": _WEIGHT,
        "required": boolean,
    },
}

TABLES: dict[str, Check] = {
    "rlimits": table(choice(RLIMIT_NAMES, "limit"), fields.limit),
    "sysctls": sysctls,
    "on_missing": table(choice(LAYERS, "layer"), choice(ON_MISSING, "answer")),
}

TOP: dict[str, Check] = {"extends": string, "summary": line}

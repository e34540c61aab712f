"""Names and numbers of capabilities(7)."""

from __future__ import annotations

from sandbox.errors import PolicyError

# In the order of linux/capability.h, CAP_CHOWN = 0.
NAMES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)


def normalize_capability(name: str) -> str:
    """The name in capitals and without CAP_. Raises PolicyError for an unknown one."""
    short = name.upper().removeprefix("CAP_")
    if short not in NAMES:
        raise PolicyError(f'"{name}" is not a capability', hint="see capabilities(7)")
    return short


def capability_mask(names: tuple[str, ...]) -> int:
    """The bit mask of `names`; "ALL" stands for every one."""
    if "ALL" in names:
        return (1 << len(NAMES)) - 1
    return sum(1 << NAMES.index(normalize_capability(name)) for name in set(names))

"""Predicates that try an operation: each returns "" when it works, else the reason it does not."""

import ctypes
import functools
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.user import subid_ranges


def _try(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return "" if done.returncode == 0 else (done.stderr.strip() or f"{command[0]} failed")


@functools.cache
def user_namespace() -> str:
    """An unprivileged user namespace can be made."""
    return _try("unshare", "--user", "--map-root-user", "true")


@functools.cache
def overlay() -> str:
    """The kernel mounts an overlay in a user namespace."""
    options = "userxattr,lowerdir=l,upperdir=u,workdir=w"
    script = (
        f"mount -t tmpfs t /mnt && cd /mnt && mkdir l u w m && mount -t overlay o -o {options} m"
    )
    return _try("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script)


@functools.cache
def landlock() -> str:
    """The kernel has Landlock, and it is switched on."""
    create_ruleset, version = 444, 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(create_ruleset, None, ctypes.c_size_t(0), ctypes.c_uint32(version)) > 0:
        return ""
    return f"no Landlock: {os.strerror(ctypes.get_errno())}"


@functools.cache
def user_mode_linux() -> bool:
    """The kernel is User-Mode Linux, to which `int 0x80` is one more 64-bit system call."""
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text()


@functools.cache
def subordinate_ids() -> str:
    """The user has 65,536 subordinate ids and the helpers to map them."""
    if sum(map(len, subid_ranges("/etc/subuid"))) < 65536:
        return "the user has no 65536 subordinate ids in /etc/subuid"
    return "" if shutil.which("newuidmap") and shutil.which("newgidmap") else "no newuidmap"


def program(name: str) -> str:
    """A program of the host is on PATH."""
    return "" if shutil.which(name) else f"{name} is not installed"


def debian(variable: str = "SBX_TEST_DEBIAN") -> str:
    """The set-up has made a Debian root file system."""
    path = os.environ.get(variable, "")
    return (
        ""
        if path and os.path.exists(f"{path}/usr/bin/gcc")
        else f"{variable} names no root file system"
    )

"""The doctor's checks of file systems: overlay where it is wanted, and sbx's own folders."""

from __future__ import annotations

import errno
import os
import stat

from sandbox.host import cures
from sandbox.host.attempt import Outcome, attempt
from sandbox.host.disk import attempt_overlay_in, is_partial
from sandbox.host.finding import Finding
from sandbox.linux.paths import cache_dir, state_dir

LOW_SPACE_BYTES = 1 << 30
LOW_INODES = 10000
_COPIED = "sandboxes work on a copy of the root file system instead, which starts slower"
_ON_DISK = "changes go to a disk instead, see overlay-disk, and their size has no limit"


def _existing(path: str) -> str:
    """`path`, or its nearest parent that exists."""
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _overlay_finding(name: str, outcome: Outcome, works: str) -> Finding:
    if outcome.ok:
        return Finding(name, "ok", works)
    detail, fix, instead = outcome.reason, "", _COPIED
    if outcome.errno == errno.ENODEV:
        fix = cures.module("overlay")
    elif is_partial(outcome):
        detail += " (this file system keeps no user xattrs; tmpfs does since Linux 6.6)"
        instead = _ON_DISK if name == "overlay-memory" else _COPIED
    return Finding(name, "warn", f"{detail}; {instead}", fix)


def check_overlay_memory() -> Finding:
    """Overlay with its writable layer in memory, the default."""
    words = "overlay works with its writable layer in memory"
    return _overlay_finding("overlay-memory", attempt("overlay"), words)


def check_overlay_disk() -> Finding:
    """Overlay with its writable layer on the cache's file system, as --persist uses."""
    import tempfile

    place = _existing(cache_dir())
    try:
        folder = tempfile.mkdtemp(prefix=".sbx-doctor-", dir=place)
    except OSError as error:
        words = (error.strerror or "").lower()
        return Finding("overlay-disk", "warn", f"cannot write in {place}: {words}")
    words = f"overlay works with its writable layer in {place}"
    return _overlay_finding("overlay-disk", attempt_overlay_in(folder), words)


def check_overlay_lower() -> Finding:
    """Overlay over the current folder, whose file system may not serve as lower layer."""
    try:
        here = os.getcwd()
    except OSError as error:
        words = (error.strerror or "").lower()
        return Finding("overlay-lower", "warn", f"the current folder cannot be found: {words}")
    outcome = attempt("overlay", "", here)
    words = f"overlay works over {here}"
    return _overlay_finding("overlay-lower", outcome, words)


def check_runtime_folder() -> Finding:
    """Where the state of running sandboxes is kept."""
    name = "runtime-folder"
    chosen = state_dir()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and not chosen.startswith(f"{runtime}/"):
        detail = f"XDG_RUNTIME_DIR is {runtime}, which cannot be used; {chosen} is used instead"
        return Finding(name, "warn", detail, "unset XDG_RUNTIME_DIR")
    base = _existing(chosen)
    found = os.stat(base)
    if not os.access(base, os.W_OK | os.X_OK):
        detail = f"{chosen} cannot be made: {base} is not writable"
        return Finding(name, "fail", detail, "export XDG_RUNTIME_DIR=$(mktemp -d)")
    shared = found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX
    if found.st_uid not in {0, os.getuid()} or shared:
        return Finding(name, "warn", f"{base} is open to others", f"sudo chmod go-w {base}")
    if not runtime and not chosen.startswith("/run/"):
        return Finding(name, "ok", f"{chosen}, which outlasts a reboot: XDG_RUNTIME_DIR is not set")
    return Finding(name, "ok", chosen)


def check_cache_space() -> Finding:
    """Room for copies, images and layers."""
    place = _existing(cache_dir())
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    text = f"{free / (1 << 30):.1f} GiB free in {place}"
    if not os.access(place, os.W_OK | os.X_OK):
        detail = f"{place} is not writable: nothing can be cached"
        return Finding("cache", "warn", detail, "export XDG_CACHE_HOME=$(mktemp -d)")
    if free < LOW_SPACE_BYTES:
        return Finding("cache", "warn", f"{text}: a copied root file system may not fit")
    if found.f_files and found.f_favail < LOW_INODES:
        return Finding("cache", "warn", f"only {found.f_favail} inodes free in {place}")
    return Finding("cache", "ok", text)

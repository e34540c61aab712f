"""Where sbx keeps things: state, cache, configuration, and its own installed files."""

from __future__ import annotations

import os
import stat

from sandbox.errors import SbxError


def _base(variable: str, fallback: str) -> str:
    value = os.environ.get(variable, "")
    return value if value.startswith("/") else fallback


def _home() -> str:
    return os.path.expanduser("~")


def _is_own(folder: str) -> bool:
    """Whether it is ours to write in; `su` and `sudo -E` hand on that of somebody else."""
    try:
        return os.stat(folder).st_uid == os.getuid() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def state_dir() -> str:
    """The folder of run state: `$XDG_RUNTIME_DIR/sbx`, else `/run/user/UID/sbx`, else in HOME."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") or f"/run/user/{os.getuid()}"
    if runtime.startswith("/") and _is_own(runtime):
        return f"{runtime}/sbx"
    return f"{_base('XDG_STATE_HOME', _home() + '/.local/state')}/sbx"


def cache_dir() -> str:
    """The folder of caches: `$XDG_CACHE_HOME/sbx`."""
    return f"{_base('XDG_CACHE_HOME', _home() + '/.cache')}/sbx"


def config_dir() -> str:
    """The folder of the user's own configuration: `$XDG_CONFIG_HOME/sbx`."""
    return f"{_base('XDG_CONFIG_HOME', _home() + '/.config')}/sbx"


def networks_dir() -> str:
    """The folder of root's networks: one for the whole machine, whoever became root how."""
    return "/var/lib/sbx/networks"


def absolute(path: str) -> str:
    """The absolute path of `path`, without "." and "..", links not followed.

    Raises SbxError for a relative one where the current folder has been removed.
    """
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise SbxError(
            f'cannot find "{path}"',
            cause="the path is relative, and the current folder is gone",
            hint="change to a folder that exists, or give an absolute path",
        ) from error


def below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it, by their names alone."""
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def private_dir(path: str) -> str:
    """Create `path` with mode 0700 where needed, check that nobody else can reach into it.

    Raises SbxError when it is a symlink, belongs to someone else, or others have rights on it.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise SbxError(f"cannot create {path}", cause=error.strerror or "") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise SbxError(
            f"cannot trust {path}",
            cause="it is not a directory of this user that only this user can write",
            hint=f"remove it, or: chmod 700 {path}",
        )
    return path


def _package() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def native(name: str) -> str:
    """The absolute path of an installed native program of ours, such as "sbx-launcher"."""
    path = f"{_package()}/_native/{name}"
    if not os.path.isfile(path):
        raise SbxError(
            f"cannot find {name}",
            cause=f"{path} does not exist",
            hint="install sbx with: make setup",
        )
    return path


def policies_dir() -> str:
    """The folder of the built-in policies, installed or in a source tree."""
    installed = f"{_package()}/_policies"
    return installed if os.path.isdir(installed) else f"{os.path.dirname(_package())}/policies"

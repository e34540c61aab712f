"""Why a command could not be executed in a root file system, in words a user can act on.

Owns the explanation after a failed execve(2), whose errno does not tell a missing program from a
missing interpreter. The root file system is hostile: nothing below it is opened but through
`inroot`, only regular files are read, and of each no more than a few KiB. What a mount covers
inside the sandbox is not visible here, so an errno that contradicts the files is believed.
"""

from __future__ import annotations

import errno as codes
import os
import stat

from sandbox.host.elf import ElfError, ElfHead, env_target, host_runs, read_head, read_shebang
from sandbox.host.inroot import open_path

_USUAL_DIRS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_PATH_DIRS_MAX = 64
_SHOWN_MAX = 200
_SCRIPT_DEPTH = 4
_NAMES_MAX = 20_000

_GENERAL = {
    codes.E2BIG: (
        "the arguments and the environment are too long for the kernel",
        "pass long data through a file or standard input",
    ),
    codes.ETXTBSY: ("the file is open for writing", "close it first, then run it"),
    codes.ENOMEM: ("the kernel has no memory for it", "raise the memory limit of the policy"),
    codes.ENOEXEC: (
        "exec format error",
        "a script begins with a line such as #!/bin/sh; without it, run: sh FILE",
    ),
    codes.ENAMETOOLONG: ("the path is too long", ""),
    codes.EPERM: (
        "operation not permitted",
        "the policy's no_new_privs or seccomp filter may forbid this file",
    ),
}


def explain_exec_failure(
    rootfs: str, argv0: str, path_env: str, errno: int
) -> tuple[str, str, str]:
    """(what, cause, hint) for an execve of `argv0` that failed with `errno` inside `rootfs`.

    `path_env` is the PATH that the search used; it does not count for an `argv0` with a slash.
    Never raises for any content of `rootfs`.
    """
    what = f"cannot run {_show(argv0)}"
    if errno in (codes.E2BIG, codes.ETXTBSY, codes.ENOMEM):
        return what, *_GENERAL[errno]
    try:
        cause, hint = _explain(rootfs, argv0, path_env, errno)
    except OSError as error:
        cause, hint = (error.strerror or os.strerror(errno)).lower(), ""
    except ValueError:
        cause, hint = "its name contains a NUL character", ""
    return what, cause, hint


def _explain(rootfs: str, argv0: str, path_env: str, errno: int) -> tuple[str, str]:
    if not argv0:
        return "the command is empty", "name a program to run after the root file system"
    tried = _candidates(argv0, path_env)
    denied = ("", "")
    for path in tried:
        found = _find(rootfs, path)
        if isinstance(found, str):
            # A path that was named is explained; on PATH, an absent name is the usual thing.
            if "/" in argv0 or found != "no such file or directory":
                denied = denied if denied[0] else (found, "")
            continue
        cause, hint = _examine(rootfs, path, found, 0)
        # As execvp does: what cannot be executed is passed over if a later folder has another.
        if cause and ("/" in argv0 or not cause.startswith(("permission", "it is a directory"))):
            return cause, hint
        if not cause:
            return _unexplained(path, errno)
        denied = denied if denied[0] else (cause, hint)
    if errno not in (0, codes.ENOENT, codes.EACCES, codes.ENOTDIR, codes.ELOOP):
        return _unexplained(argv0, errno)
    if "/" in argv0:
        return denied[0] or "no such file or directory", denied[1] or _elsewhere(rootfs, argv0)
    if denied[0]:
        return denied
    where = ", ".join(_show(os.path.dirname(path)) for path in tried[:8]) or "an empty PATH"
    return f"no such program in {where}", _elsewhere(rootfs, argv0)


def _candidates(argv0: str, path_env: str) -> list[str]:
    if "/" in argv0:
        return [argv0]
    dirs = [folder for folder in path_env.split(":") if folder.startswith("/")]
    return [f"{folder.rstrip('/')}/{argv0}" for folder in dirs[:_PATH_DIRS_MAX]]


def _find(rootfs: str, path: str) -> os.stat_result | str:
    """What `path` is inside, or why it is nothing."""
    try:
        fd = open_path(rootfs, path)
    except OSError as error:
        if error.errno == codes.ENOENT:
            return _dangling(rootfs, path) or "no such file or directory"
        if error.errno == codes.ENOTDIR:
            return "a part of its path is not a directory"
        return (error.strerror or "cannot be opened").lower()
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _dangling(rootfs: str, path: str) -> str:
    """Say so when `path` itself is a symbolic link whose target is missing."""
    folder, name = os.path.split(path.rstrip("/"))
    try:
        parent = open_path(rootfs, folder)
    except OSError:
        return ""
    try:
        target = os.readlink(name, dir_fd=parent)
    except OSError:
        return ""
    finally:
        os.close(parent)
    return f"it is a symbolic link to {_show(target)}, which is missing"


def _examine(rootfs: str, path: str, found: os.stat_result, depth: int) -> tuple[str, str]:
    """(cause, hint) why the existing `path` cannot be executed; ("", "") if nothing is wrong."""
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        return "it is a directory", "name a program in it"
    if not stat.S_ISREG(found.st_mode):
        return "permission denied: it is not a regular file", ""
    if not mode & 0o111:
        return f"permission denied: mode {mode:04o}", f"make it executable: chmod +x {_show(path)}"
    try:
        fd = _open_regular(rootfs, path)
    except OSError:
        return f"permission denied: mode {mode:04o}, owner {found.st_uid}", ""
    try:
        head = os.pread(fd, 256, 0)
        script = read_shebang(head)
        if script is not None:
            return _examine_script(rootfs, *script, depth)
        elf = read_head(lambda size, offset: os.pread(fd, size, min(offset, 2**62)))
    except ElfError as error:
        return f"exec format error: {error}", "the file is damaged or incomplete: copy it again"
    finally:
        os.close(fd)
    if elf is not None:
        return _examine_elf(rootfs, elf)
    if not head:
        return "exec format error: the file is empty", ""
    return (
        "exec format error: neither ELF nor #!",
        f"if it is a shell script, run: sh {_show(path)}",
    )


def _open_regular(rootfs: str, path: str) -> int:
    found = open_path(rootfs, path)
    try:
        # Through the descriptor that was looked at: the name may lead to a device by now.
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(codes.EACCES, "not a regular file")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{found}", flags)
    finally:
        os.close(found)


def _examine_script(rootfs: str, interpreter: str, argument: str, depth: int) -> tuple[str, str]:
    if not interpreter:
        return "exec format error: its #! line names no interpreter", ""
    name = _show(interpreter)
    if interpreter.endswith("\r") or argument.endswith("\r"):
        return (
            f"script interpreter {name} is missing: its first line ends with a carriage return",
            "convert the script to Unix line endings",
        )
    if depth >= _SCRIPT_DEPTH:
        return "too many levels of script interpreters", ""
    found = _find(rootfs, interpreter)
    if isinstance(found, str):
        problem = "is missing" if found.startswith("no such") else f"cannot be used: {found}"
        hint = _elsewhere(rootfs, interpreter) or f"install {name} in the root file system"
        return f"script interpreter {name} {problem}", hint
    cause, hint = _examine(rootfs, interpreter, found, depth + 1)
    if cause:
        return f"script interpreter {name}: {cause}", hint
    if os.path.basename(interpreter) == "env":
        program = env_target(argument)
        paths = [program] if "/" in program else [f"{d}/{program}" for d in _USUAL_DIRS]
        if program and all(isinstance(_find(rootfs, path), str) for path in paths):
            return f"the script needs {_show(program)}, which is missing", ""
    return "", ""


def _examine_elf(rootfs: str, elf: ElfHead) -> tuple[str, str]:
    host = os.uname().machine
    if not host_runs(elf.machine, host):
        return (
            f"it is for {elf.machine}, this host is {host}",
            f"use a root file system for {host}",
        )
    if not elf.runnable:
        return "exec format error: it is an ELF file, but not a program", ""
    if not elf.interpreter:
        return "", ""
    name = _show(elf.interpreter)
    found = _find(rootfs, elf.interpreter)
    if isinstance(found, str):
        problem = "is missing" if found.startswith("no such") else f"cannot be used: {found}"
        if "ld-musl" in elf.interpreter:
            hint = "it is built for musl: install musl, or use a root file system made with it"
        else:
            hint = "install the C library that it was built for, or use a static build"
        return f"the interpreter {name} {problem}", hint
    if not stat.S_ISREG(found.st_mode):
        return f"the interpreter {name} is not a regular file", ""
    if not found.st_mode & 0o111:
        return f"the interpreter {name} is not executable: mode {found.st_mode & 0o7777:04o}", ""
    loader = _head_of(rootfs, elf.interpreter)
    if loader is None or loader.family != elf.family:
        return f"the interpreter {name} is not an ELF program for {elf.machine}", ""
    return "", ""


def _head_of(rootfs: str, path: str) -> ElfHead | None:
    try:
        fd = _open_regular(rootfs, path)
    except OSError:
        return None
    try:
        return read_head(lambda size, offset: os.pread(fd, size, min(offset, 2**62)))
    except (ElfError, OSError):
        return None
    finally:
        os.close(fd)


def _unexplained(path: str, errno: int) -> tuple[str, str]:
    if errno in _GENERAL:
        return _GENERAL[errno]
    cause = os.strerror(errno).lower() if errno else "the kernel refused it"
    if errno == codes.EACCES:
        return cause, f"{_show(path)} may lie on a mount without exec, or be forbidden by landlock"
    return cause, ""


def _elsewhere(rootfs: str, argv0: str) -> str:
    """A hint with the same name in a usual folder, or the most similar name there; or ""."""
    name = os.path.basename(argv0.rstrip("/"))
    if not name:
        return ""
    for folder in _USUAL_DIRS:
        path = f"{folder}/{name}"
        if path != argv0 and not isinstance(_find(rootfs, path), str):
            return f"did you mean {_show(path)}"
    names: dict[str, str] = {}
    for folder in _USUAL_DIRS:
        for other in _list(rootfs, folder):
            names.setdefault(other, f"{folder}/{other}")
    import difflib

    similar = difflib.get_close_matches(name[:64], list(names)[:_NAMES_MAX], n=1, cutoff=0.75)
    return f"did you mean {_show(names[similar[0]])}" if similar else ""


def _list(rootfs: str, folder: str) -> list[str]:
    try:
        found = open_path(rootfs, folder)
    except OSError:
        return []
    names: list[str] = []
    try:
        with os.scandir(f"/proc/self/fd/{found}") as entries:
            for entry in entries:
                if len(names) >= _NAMES_MAX:
                    break
                names.append(entry.name)
    except OSError:
        pass
    finally:
        os.close(found)
    return [name for name in names if len(name) <= 64]


def _show(text: str) -> str:
    """A name from inside, fit for one line of a terminal."""
    if len(text) > _SHOWN_MAX:
        text = text[: _SHOWN_MAX - 3] + "..."
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )

"""The launcher and its plan as sealed files in memory.

Owns how bytes become a descriptor that nobody can change any more. The launcher runs from such
a copy, so that the file it was installed as is never reachable from inside, and it refuses to
work when its own image or its plan is not sealed.
"""

from __future__ import annotations

import errno
import fcntl
import os

from sandbox.errors import SetupError

# Flags of memfd_create(2) that this Python does not name yet; kernels before 6.3 answer EINVAL.
_MFD_NOEXEC_SEAL = 0x8
_MFD_EXEC = 0x10

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def seal_program(path: str) -> int:
    """Copy the program at `path` into a sealed, executable memory file; return its descriptor.

    The descriptor is close-on-exec. Raises SetupError naming the program.
    """
    try:
        memory = _create("sbx-launcher", _MFD_EXEC)
        try:
            _copy_file(path, memory)
            return _seal(memory)
        except BaseException:
            os.close(memory)
            raise
    except OSError as error:
        hint = ""
        if error.errno == errno.EACCES:
            hint = "sysctl vm.memfd_noexec must be below 2 for programs in memory"
        raise SetupError(
            f"cannot make a sealed copy of {path}",
            cause=(error.strerror or "").lower(),
            hint=hint,
            errno=error.errno or 0,
        ) from error


def seal_bytes(name: str, content: bytes) -> int:
    """Return the descriptor of a sealed memory file with `content`, its offset at the start."""
    try:
        memory = _create(name, _MFD_NOEXEC_SEAL)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(memory, view) :]
            os.lseek(memory, 0, os.SEEK_SET)
            return _seal(memory)
        except BaseException:
            os.close(memory)
            raise
    except OSError as error:
        raise _no_memory_file(name, error) from error


def _no_memory_file(name: str, error: OSError) -> SetupError:
    number, cause, hint = error.errno or 0, (error.strerror or "").lower(), ""
    if number in {errno.ENOSYS, errno.EPERM}:
        from sandbox.host.userns import explain_refused_call

        reason, hint = explain_refused_call(number)
        cause = f"memfd_create: {cause}" + (f" ({reason})" if reason else "")
    elif number == errno.EFBIG:
        hint = "the limit of file sizes is too low: see ulimit -f"
    return SetupError(f"cannot keep the {name} in memory", cause=cause, hint=hint, errno=number)


def _create(name: str, kind: int) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | kind)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, flags)


def _copy_file(path: str, memory: int) -> None:
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while os.sendfile(memory, source, None, 1 << 20):
            pass
    finally:
        os.close(source)


def _seal(memory: int) -> int:
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
    return memory

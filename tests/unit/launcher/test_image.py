"""Sealed memory files: whole copies that nobody can change."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from sandbox.errors import SetupError
from sandbox.launcher import image


def seals(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GET_SEALS)


def test_a_program_is_copied_sealed_and_runs() -> None:
    fd = image.seal_program("/bin/true")
    try:
        assert os.pread(fd, 1 << 20, 0) == Path("/bin/true").read_bytes()
        assert seals(fd) & image.SEALS == image.SEALS
        assert not os.get_inheritable(fd)
        pid = os.posix_spawn(f"/proc/self/fd/{fd}", ["true"], {})
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(fd)


@pytest.mark.parametrize("content", [b"", b"plan", bytes(range(256)) * 9000])
def test_bytes_are_kept_and_read_from_the_start(content: bytes) -> None:
    fd = image.seal_bytes("plan", content)
    with os.fdopen(fd, "rb") as file:
        assert seals(fd) & image.SEALS == image.SEALS
        assert file.read() == content


def test_a_sealed_file_can_be_neither_written_nor_cut() -> None:
    fd = image.seal_bytes("plan", b"plan")
    try:
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 1)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0)
        reopened = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            with pytest.raises(PermissionError):
                os.write(reopened, b"x")
        finally:
            os.close(reopened)
    finally:
        os.close(fd)


def test_a_kernel_without_the_newer_flags_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = os.memfd_create

    def old_kernel(name: str, flags: int) -> int:
        asked.append(flags)
        if flags & ~(os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", old_kernel)
    fd = image.seal_program("/bin/true")
    assert seals(fd) & image.SEALS == image.SEALS
    os.close(fd)
    assert len(asked) == 2


def test_a_refusal_names_the_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str, _flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(SetupError) as caught:
        image.seal_program("/bin/true")
    assert "memfd_noexec" in caught.value.hint
    assert caught.value.errno == errno.EACCES
    with pytest.raises(SetupError):
        image.seal_bytes("plan", b"")


def test_a_missing_program_is_named_and_nothing_stays_open() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SetupError, match="/nonexistent/launcher"):
        image.seal_program("/nonexistent/launcher")
    assert os.listdir("/proc/self/fd") == before

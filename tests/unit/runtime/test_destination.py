"""Where a report goes: the folder is the one that stood there at the start, links are not taken."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SbxError, UsageError
from sandbox.runtime import report
from sandbox.runtime.destination import Destination

pytestmark = pytest.mark.usefixtures("descriptors_closed")


def write(path: Path | str, text: str = "new\n") -> None:
    place = Destination(str(path))
    try:
        place.write(text)
    finally:
        place.close()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("the old one, and longer")
    write(path)
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_symlink_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("keep")
    path = tmp_path / "report.json"
    path.symlink_to("victim")
    write(path)
    assert (tmp_path / "victim").read_text() == "keep"
    assert not path.is_symlink()


def test_a_folder_that_is_exchanged_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").mkdir()
    place = Destination(str(tmp_path / "out/report"))
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "out").symlink_to("victim")
    place.write("new\n")
    place.close()
    assert os.listdir(tmp_path / "victim") == []
    assert (tmp_path / "moved/report").read_text() == "new\n"


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "report"))
        with pytest.raises(UsageError) as caught:
            Destination(str(tmp_path / "report"))
    assert caught.value.cause == "it is a socket or a block device"


def test_a_pipe_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    really = os.open

    def refuse(path: Any, flags: int, *, dir_fd: int | None = None) -> int:
        if path == "pipe":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError) as caught:
        Destination(str(tmp_path / "pipe"))
    assert caught.value.cause == "permission denied"


def test_a_name_that_is_taken_meanwhile(tmp_path: Path) -> None:
    place = Destination(str(tmp_path / "report"))
    (tmp_path / "victim").write_text("keep")
    (tmp_path / "report").symlink_to("victim")
    place.write("new\n")
    (tmp_path / "report").unlink()
    (tmp_path / "report").mkdir()
    with pytest.raises(SbxError, match="cannot write the report"):
        place.write("again\n")
    place.close()
    assert (tmp_path / "victim").read_text() == "keep"
    assert sorted(os.listdir(tmp_path)) == ["report", "victim"]


def test_descriptors_of_the_caller(tmp_path: Path) -> None:
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, b"before\n")
    write(f"/dev/fd/{file}")
    write(f"/proc/self/fd/{file}", "more\n")
    os.close(file)
    assert (tmp_path / "log").read_text() == "before\nnew\nmore\n"


def test_a_device_stays_a_device() -> None:
    write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_full_device_is_an_error() -> None:
    with pytest.raises(SbxError) as caught:
        write("/dev/full")
    assert caught.value.cause == "no space left on device"


def test_a_named_pipe_with_a_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write(tmp_path / "pipe")
    assert os.read(reader, 100) == b"new\n"
    os.close(reader)


def test_a_reader_that_takes_nothing_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_PATIENCE_S", 0.05)
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with pytest.raises(SbxError) as caught:
        write(f"/dev/fd/{writer}", "x" * size * 2)
    assert caught.value.cause == "its reader takes nothing"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("missing/report", "no such file or directory"),
        ("file/report", "not a directory"),
        ("folder", "it is a directory"),
        ("folder/", "it is a directory"),
        ("folder/..", "it is a directory"),
        ("pipe", "nobody reads from it"),
        ("a\0b", "it contains a nul byte"),
    ],
)
def test_places_that_are_refused(tmp_path: Path, name: str, cause: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError) as caught:
        Destination(f"{tmp_path}/{name}")
    assert caught.value.cause.lower() == cause
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_that_are_refused() -> None:
    with open("/dev/null", "rb") as file:
        with pytest.raises(UsageError, match="cannot write the report"):
            Destination(f"/dev/fd/{file.fileno()}")
        closed = file.fileno()
    with pytest.raises(UsageError) as caught:
        Destination(f"/dev/fd/{closed}")
    assert caught.value.cause == "bad file descriptor"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o555)
    with pytest.raises(UsageError) as caught:
        Destination(f"{tmp_path}/folder/report")
    assert caught.value.cause == "its folder cannot be written"

"""A file that the caller named may be anything: nothing blocks, nothing fills the memory."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from sandbox.linux import files

MOST = 1000

pytestmark = pytest.mark.usefixtures("descriptors_closed")


def test_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * MOST)
    assert files.read_whole(str(path), MOST) == b"x" * MOST
    path.write_bytes(b"x" * (MOST + 1))
    with pytest.raises(ValueError, match="bigger than 1000 bytes"):
        files.read_whole(str(path), MOST)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/"])
def test_other_kinds(path: str) -> None:
    with pytest.raises(ValueError, match="neither a regular file nor a pipe"):
        files.read_whole(path, MOST)


def test_fifo_without_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WAIT_S", 0.05)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match=re.escape("nothing came out of it for 0.05 s")):
        files.read_whole(str(tmp_path / "fifo"), MOST)


def test_fifo_with_a_late_writer(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"A=1\n",))
    writer.start()
    assert files.read_whole(str(path), MOST) == b"A=1\n"
    writer.join()


def test_pipe_by_descriptor() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"A=1\n")

    def end() -> None:
        os.write(write_end, b"B=2\n")
        os.close(write_end)

    writer = threading.Timer(0.05, end)
    writer.start()
    assert files.read_whole(f"/dev/fd/{read_end}", MOST) == b"A=1\nB=2\n"
    writer.join()
    # All writers are gone: it has ended, also without a byte.
    assert files.read_whole(f"/dev/fd/{read_end}", MOST) == b""
    os.close(read_end)


def test_endless_pipe() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"x" * (MOST + 1))
    with pytest.raises(ValueError, match="bigger"):
        files.read_whole(f"/dev/fd/{read_end}", MOST)
    os.close(read_end)
    os.close(write_end)


def test_a_pipe_that_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WAIT_S", 0.05)
    read_end, write_end = os.pipe()
    os.write(write_end, b"A=1\n")
    with pytest.raises(ValueError, match=re.escape("nothing came out of it for 0.05 s")):
        files.read_whole(f"/dev/fd/{read_end}", MOST)
    os.close(read_end)
    os.close(write_end)


def test_missing() -> None:
    with pytest.raises(FileNotFoundError):
        files.read_whole("/nowhere", MOST)

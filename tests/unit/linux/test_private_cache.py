"""Small files that are believed on sight: what is stored comes back, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.linux import private_cache
from sandbox.linux.private_cache import load, store

KEY = b"of what"
BODY = b"\x06\0\0\xff\x7f" * 3


pytestmark = pytest.mark.usefixtures("descriptors_closed")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """The folder of a cache that does not exist yet."""
    return str(tmp_path / "cache/part")


def entry(folder: str) -> Path:
    (found,) = Path(folder).iterdir()
    return found


def test_what_is_stored_comes_back(folder: str) -> None:
    assert load(folder, KEY) is None
    assert store(folder, KEY, BODY)
    assert load(folder, KEY) == BODY
    assert load(folder, b"of something else") is None
    assert store(folder, b"nothing", b"")
    assert load(folder, b"nothing") == b""


def test_files_and_folders_are_private(folder: str) -> None:
    before = os.umask(0)
    try:
        assert store(folder, KEY, BODY)
    finally:
        os.umask(before)
    found = entry(folder)
    assert found.stat().st_mode & 0o7777 == 0o600
    assert found.parent.stat().st_mode & 0o7777 == 0o700
    assert found.parent.parent.stat().st_mode & 0o7777 == 0o700


def test_storing_again_replaces(folder: str) -> None:
    store(folder, KEY, BODY)
    store(folder, KEY, BODY * 2)
    assert load(folder, KEY) == BODY * 2
    assert entry(folder)


def test_every_damaged_byte_is_noticed(folder: str) -> None:
    store(folder, KEY, BODY)
    path = entry(folder)
    sound = path.read_bytes()
    for i in range(len(sound)):
        path.write_bytes(sound[:i] + bytes([sound[i] ^ 1]) + sound[i + 1 :])
        assert load(folder, KEY) is None, i
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        assert load(folder, KEY) is None, length
    path.write_bytes(sound)
    assert load(folder, KEY) == BODY


def test_an_entry_under_another_name_is_not_believed(folder: str) -> None:
    store(folder, b"other", BODY)
    path = entry(folder)
    path.rename(path.with_name(private_cache.digest(KEY).hex()))
    assert load(folder, KEY) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_an_entry_that_others_may_touch_is_not_believed(folder: str, mode: int) -> None:
    store(folder, KEY, BODY)
    entry(folder).chmod(mode)
    assert load(folder, KEY) is None


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_folder_that_others_may_reach_is_not_used(folder: str, mode: int) -> None:
    store(folder, KEY, BODY)
    Path(folder).chmod(mode)
    assert load(folder, KEY) is None
    assert not store(folder, KEY, BODY)


def test_a_folder_in_one_that_others_may_write_is_not_used(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    Path(folder).parent.chmod(0o777)
    assert not store(folder, KEY, BODY)


def test_symlinks_are_not_followed(folder: str, tmp_path: Path) -> None:
    store(folder, KEY, BODY)
    other = tmp_path / "other"
    other.symlink_to(folder)
    assert load(str(other), KEY) is None
    assert not store(str(other), KEY, BODY)
    path = entry(folder)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert load(folder, KEY) is None
    # Storing replaces the link and leaves what it pointed to alone.
    assert store(folder, KEY, BODY * 2)
    assert not path.is_symlink()
    assert load(folder, KEY) == BODY * 2
    assert (tmp_path / "moved").read_bytes().endswith(BODY)


def test_a_second_name_is_not_believed(folder: str, tmp_path: Path) -> None:
    store(folder, KEY, BODY)
    (tmp_path / "second").hardlink_to(entry(folder))
    assert load(folder, KEY) is None


def test_a_fifo_does_not_hang(folder: str) -> None:
    store(folder, KEY, BODY)
    path = entry(folder)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert load(folder, KEY) is None


def test_entries_of_somebody_else_are_not_believed(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(folder, KEY, BODY)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert load(folder, KEY) is None
    assert not store(folder, KEY, BODY)


def test_what_cannot_be_written_is_no_error(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert not store(str(tmp_path / "file/part"), KEY, BODY)
    assert not store(folder, KEY, bytes(private_cache.ENTRY_BYTES_MAX))
    monkeypatch.setattr(os, "write", lambda _fd, data: len(data) // 2)
    assert not store(folder, KEY, BODY)
    assert list(Path(folder).iterdir()) == []


def test_a_full_cache_is_emptied(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_cache, "ENTRIES_MAX", 5)
    for i in range(13):
        store(folder, bytes([i]), BODY)
        assert load(folder, bytes([i])) == BODY
        assert len(list(Path(folder).iterdir())) == i % 5 + 1

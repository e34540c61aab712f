"""The copy and the removal of trees with the caller's own rights, without a user namespace."""

from __future__ import annotations

import errno
import json
import marshal
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from sandbox.plan.request import DISK_OVERLAY
from sandbox.services.storage import DRIVERS, copy, entries, filedata, remove, tree
from sandbox.services.storage.copy import copy_tree
from sandbox.services.storage.filedata import DataCopier
from sandbox.services.storage.remove import first_problems, needs_map, remove_here
from tests.support import trees

IS_ROOT = os.geteuid() == 0

# The copy forks where it is alone in its process; here a watchdog thread of pytest runs beside it.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def without_dropped(description: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a copy keeps: all but overlay's marks."""
    description = deepcopy(description)
    for entry in description.values():
        entry.get("xattrs", {}).pop("user.overlay.opaque", None)
        entry.get("xattrs", {}).pop("user.overlay.whiteout", None)
    return description


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A tree with everything, but for entries that only root could read again."""
    path = tmp_path / "source"
    trees.build(str(path), owners=IS_ROOT)
    if not IS_ROOT:
        (path / "closed").chmod(0o400)
        (path / "closed folder").chmod(0o500)
    yield path
    for left in (path, tmp_path / "copy"):  # deeper than what pytest can remove
        remove_here(str(left))


@pytest.mark.parametrize("workers", [1, 2])
def test_copy_is_equal(source: Path, tmp_path: Path, workers: int) -> None:
    before = trees.describe(str(source))
    stats = copy_tree(str(source), str(tmp_path / "copy"), workers=workers)
    assert stats.problems == []
    assert trees.describe(str(tmp_path / "copy")) == without_dropped(before)
    assert trees.describe(str(source)) == before
    assert stats.counts["hard_links"] == 4
    assert stats.counts["symlinks"] == 5
    assert stats.counts["specials"] == 2
    assert stats.counts["directories"] == 9 + trees.DEEP
    assert remove_here(str(tmp_path / "copy")) == []
    assert not (tmp_path / "copy").exists()


def test_copy_is_independent_of_the_source(source: Path, tmp_path: Path) -> None:
    copy_tree(str(source), str(tmp_path / "copy"))
    for name in ("plain", "three", "big"):
        assert (source / name).stat().st_ino != (tmp_path / "copy" / name).stat().st_ino
    (tmp_path / "copy" / "three").chmod(0o600)
    (tmp_path / "copy" / "three").write_text("changed")
    assert (tmp_path / "copy" / "links" / "one").read_text() == "changed"
    assert (source / "three").read_text() == "linked"


def test_target_must_be_new_and_source_a_folder(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        copy_tree(str(source), str(tmp_path))
    with pytest.raises(NotADirectoryError):
        copy_tree(str(source / "plain"), str(tmp_path / "copy"))
    with pytest.raises(FileNotFoundError):
        copy_tree(str(source / "nothing"), str(tmp_path / "copy"))


def test_copy_inside_its_source_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    stats = copy_tree(str(tmp_path), str(tmp_path / "copy"))
    assert stats.problems == []
    assert os.listdir(tmp_path / "copy") == ["file"]


def test_umask_is_restored(source: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        copy_tree(str(source), str(tmp_path / "copy"))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert (tmp_path / "copy" / "big").stat().st_mode & 0o777 == 0o755


def test_group_and_default_acl_of_the_target_parent_stay_out(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir(0o755)
    (tmp_path / "source" / "file").write_text("x")
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(0o2775)
    trees._attribute(os.fsencode(parent), "system.posix_acl_default", trees._ACL)
    copy_tree(str(tmp_path / "source"), str(parent / "copy"))
    described = trees.describe(str(parent / "copy"))
    assert described == trees.describe(str(tmp_path / "source"))


# ---- a source that changes meanwhile ----


def copier(tmp_path: Path) -> entries.EntryCopier:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    flags = os.O_RDONLY | os.O_DIRECTORY
    return entries.EntryCopier(os.open(tmp_path / "from", flags), os.open(tmp_path / "to", flags))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (os.mkfifo, "was replaced meanwhile"),
        (os.mkdir, "was replaced meanwhile"),
        (lambda path: os.symlink("/etc/passwd", path), os.strerror(errno.ELOOP)),
    ],
)
def test_file_that_became_something_else(
    tmp_path: Path, make: Callable[[Path], None], text: str
) -> None:
    one = copier(tmp_path)
    make(tmp_path / "from" / "name")
    one.copy_batch(one.source, one.target, b"", [b"name", b"gone"], [])
    assert one.stats.problems == [(b"name", text)]
    assert one.stats.counts["vanished"] == 1
    assert os.listdir(tmp_path / "to") == []


def test_special_that_became_something_else(tmp_path: Path) -> None:
    one = copier(tmp_path)
    (tmp_path / "from" / "name").write_text("now a file")
    one.copy_batch(one.source, one.target, b"", [], [b"name"])
    assert one.stats.problems == [(b"name", "was replaced meanwhile")]


def test_folder_swapped_for_a_symlink_is_not_entered(tmp_path: Path) -> None:
    one = copier(tmp_path)
    (tmp_path / "secret" / "below").mkdir(parents=True)
    (tmp_path / "from" / "a" / "below").mkdir(parents=True)
    found = (tmp_path / "from" / "a" / "below").stat()
    (tmp_path / "from" / "a").rename(tmp_path / "moved")
    (tmp_path / "from" / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="was replaced meanwhile"):
        tree.open_below(one.source, b"a/below", (found.st_dev, found.st_ino))
    packet = marshal.dumps((b"a/below", (found.st_dev, found.st_ino), [b"x"], []))
    copy._copy_packet(one, packet)
    assert one.stats.problems == [(b"a/below", "was replaced meanwhile")]


def test_file_that_shrinks_or_grows_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    for told, blocks, expected in ((1000, 8, 100), (50, 8, 50), (1000, 0, 1000)):
        with open(tmp_path / "file", "rb") as source, open(tmp_path / "to", "wb") as target:
            DataCopier().copy(source.fileno(), target.fileno(), told, blocks)
        assert (tmp_path / "to").stat().st_size == expected
        (tmp_path / "to").unlink()


# ---- ways to copy contents ----


def test_each_way_that_is_refused_leads_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(300_000))

    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(filedata, "ioctl", refuse)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    one = DataCopier()
    for number in range(2):
        with open(tmp_path / "file", "rb") as source, open(tmp_path / f"{number}", "wb") as target:
            one.copy(source.fileno(), target.fileno(), 300_000, 600)
        assert (tmp_path / f"{number}").read_bytes() == (tmp_path / "file").read_bytes()
    assert (one.bytes_copied, one.bytes_cloned) == (600_000, 0)


def test_shared_blocks_are_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(filedata, "ioctl", lambda *arguments: asked.append(arguments))
    one = DataCopier()
    one.copy(5, 6, 1000, 8)
    assert asked == [(6, filedata.FICLONE, 5)]
    assert (one.bytes_copied, one.bytes_cloned) == (0, 1000)


@pytest.mark.parametrize("way", ["ioctl", "copy_file_range", "lseek"])
def test_real_failures_are_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(filedata if way == "ioctl" else os, way, fail)
    (tmp_path / "file").write_bytes(b"x" * 9000)
    with open(tmp_path / "file", "rb") as source, open(tmp_path / "to", "wb") as target:
        blocks = 1 if way == "lseek" else 32
        with pytest.raises(OSError, match="broken"):
            DataCopier().copy(source.fileno(), target.fileno(), 9000, blocks)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_ends_the_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(DataCopier, "copy", fail)
    with pytest.raises(OSError, match="no space left"):
        copy_tree(str(source), str(tmp_path / "copy"), workers=workers)


def test_failures_are_named_and_counted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(DataCopier, "copy", fail)
    stats = copy_tree(str(source), str(tmp_path / "copy"))
    assert stats.counts["errors"] > 150
    assert len(stats.problems) == 10
    shown = json.loads(stats.as_json())
    assert shown["errors"] == stats.counts["errors"]
    assert shown["problems"][0][1] == "broken"


def test_second_process_that_dies_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "_serve", lambda *_: os._exit(3))
    stats = copy_tree(str(source), str(tmp_path / "copy"))
    assert stats.problems == [(b"", "the second process ended with wait status 768")]


def test_main_prints_json(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert copy.main([str(source), str(tmp_path / "copy")]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == 0
    assert copy.main([str(source), str(tmp_path / "copy")]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0][1] == os.strerror(errno.EEXIST)
    assert copy.main([]) == 2


# ---- removal ----


def test_removal_opens_closed_folders(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "closed" / "below").mkdir(parents=True)
    (top / "closed" / "below" / "file").write_text("x")
    for path in (top / "closed" / "below", top / "closed", top):
        path.chmod(0)
    assert remove_here(str(top)) == []
    assert not top.exists()


def test_removal_follows_no_symlink(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    assert remove_here(str(tmp_path / "top")) == []
    assert remove_here(str(tmp_path / "link")) == []
    assert remove_here(str(tmp_path / "kept" / "file")) == []
    assert os.listdir(tmp_path / "kept") == []
    assert os.listdir(tmp_path) == ["kept"]


def test_removal_of_nothing_is_no_problem(tmp_path: Path) -> None:
    assert remove_here(str(tmp_path / "nothing")) == []


def test_removal_leaves_what_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mounted", "other"):
        (tmp_path / "top" / name).mkdir(parents=True)
        (tmp_path / "top" / name / "file").write_text("x")
    monkeypatch.setattr(remove, "mount_points", lambda _: frozenset((b"mounted",)))
    assert remove.main([str(tmp_path / "top")]) == 1
    assert capsys.readouterr().out == "mounted: device or resource busy\n"
    assert (tmp_path / "top" / "mounted" / "file").exists()
    assert not (tmp_path / "top" / "other").exists()
    monkeypatch.setattr(remove, "mount_points", lambda _: frozenset((b"",)))
    assert remove_here(str(tmp_path / "top")) == [(b"", errno.EBUSY)]
    assert (tmp_path / "top" / "mounted" / "file").exists()


def test_problems_come_in_a_useful_order() -> None:
    problems = [(b"a", errno.ENOTEMPTY), (b"a/b", errno.EACCES)]
    assert first_problems(problems) == ("a/b: permission denied", "a: directory not empty")
    assert needs_map(problems)
    assert not needs_map([(b"a", errno.EBUSY)])
    assert len(first_problems([(b"x", errno.EIO)] * 99)) == 10


@pytest.mark.parametrize("call", ["scandir", "stat", "unlink"])
def test_what_is_gone_meanwhile_hides_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A second removal takes away one entry at the moment in which the first looks at it."""
    top = tmp_path / "top"
    for name in ("a", "b", "c"):
        (top / name).mkdir(parents=True)
        (top / name / "file").write_text("x")
        (top / f"{name}.txt").write_text("x")
    really = getattr(os, call)
    gone: list[object] = []

    def rival(name: Any, *args: Any, **more: Any) -> Any:
        is_entry = call == "scandir" or more.get("dir_fd") is not None
        if is_entry and not gone:
            gone.append(name)
            for path in (top / "a", top / "b") if call == "scandir" else (top / os.fsdecode(name),):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return really(name, *args, **more)

    monkeypatch.setattr(os, call, rival)
    assert remove_here(str(top)) == []
    assert gone
    assert not top.exists()


def test_what_another_removes_first_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top" / "below").mkdir(parents=True)
    really = os.rmdir

    def twice(name: Any, *, dir_fd: int | None = None) -> None:
        really(name, dir_fd=dir_fd)
        really(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", twice)
    assert remove_here(str(tmp_path / "top")) == []
    assert not (tmp_path / "top").exists()


# ---- mount points ----


def test_mount_points_are_read_with_their_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tree._unescape(rb"/a\040b\134c") == b"/a b\\c"
    root = os.open("/", os.O_RDONLY)
    assert b"proc" in tree.mount_points(root)
    assert b"" in tree.mount_points(root)
    os.close(root)
    monkeypatch.setattr(os, "readlink", lambda _: (_ for _ in ()).throw(OSError()))
    assert tree.mount_points(0) == frozenset()


def test_drivers_prepare_what_they_need(source: Path, tmp_path: Path) -> None:
    assert set(DRIVERS) == {"overlay", DISK_OVERLAY, "copy", "bind"}
    for name in ("overlay", "bind"):
        assert DRIVERS[name](str(source), "/nowhere", None, None) == ()  # type: ignore[arg-type]
    upper = tmp_path / "upper"
    assert DRIVERS[DISK_OVERLAY](str(source), str(upper), None, None) == ()  # type: ignore[arg-type]
    assert stat.S_IMODE(upper.stat().st_mode) == 0o700


def test_special_files_keep_their_kind(source: Path, tmp_path: Path) -> None:
    copy_tree(str(source), str(tmp_path / "copy"))
    assert stat.S_ISFIFO((tmp_path / "copy" / "links" / "fifo").lstat().st_mode)
    assert stat.S_ISSOCK((tmp_path / "copy" / "links" / "socket").lstat().st_mode)


@pytest.mark.parametrize("half", ["source", "target"])
def test_a_batch_that_cannot_be_opened_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    """Also in the second process: what it was offered must not be missing unsaid."""
    copier = entries.EntryCopier(os.open(source, os.O_PATH), os.open(tmp_path, os.O_PATH))
    refused = getattr(copier, half)

    def open_below(root: int, path: bytes, _identity: object = None) -> int:
        if root == refused:
            raise OSError(errno.EMFILE, "too many")
        return tree.open_below(root, path)

    monkeypatch.setattr(copy, "open_below", open_below)
    before = len(os.listdir("/proc/self/fd"))
    copy._copy_packet(copier, marshal.dumps((b"", None, [b"plain"], [])))
    assert len(os.listdir("/proc/self/fd")) == before
    assert copier.stats.problems == [(b"", "too many")]
    assert not (tmp_path / "plain").exists()
    os.close(copier.source)
    os.close(copier.target)

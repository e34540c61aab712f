"""What is refused before anything is made, with all problems at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import RootfsError, SbxError, UsageError
from sandbox.runtime.task import Task, check_task, task_problems


def rootfs_error(path: str) -> RootfsError:
    with pytest.raises(RootfsError) as caught:
        check_task(Task(path, ("ls",)), ())
    return caught.value


def problems(*argv: str, env: Iterable[tuple[str, str]] = (), name: str = "") -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        check_task(Task("/", argv, name), env)
    return caught.value.problems


def test_sound(tmp_path: Path) -> None:
    task = Task(str(tmp_path), ("ls", "--policy", "-v", "a\nb", ""), name="a.b-c_1")
    check_task(task, [("A", "b\nc")])
    assert task_problems(task) == ()


def test_a_rootfs_that_is_not_there(tmp_path: Path) -> None:
    error = rootfs_error(str(tmp_path / "no"))
    assert str(tmp_path / "no") in error.what
    assert error.cause == "no such file or directory"
    assert "from-host" in error.hint
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    assert "leads nowhere" in rootfs_error(str(link)).cause


def test_a_rootfs_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").touch()
    os.mkfifo(tmp_path / "fifo")
    error = rootfs_error(str(tmp_path / "rootfs.tar"))
    assert error.cause == "it is a regular file, not a directory"
    assert "unpack it" in error.hint
    assert rootfs_error(str(tmp_path / "fifo")).cause == "it is a fifo, not a directory"
    assert rootfs_error("/dev/null").cause == "it is a character device, not a directory"


@pytest.mark.parametrize("allowed", [True, False])
def test_a_rootfs_that_may_not_be_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    stat = os.stat

    def look(path: str) -> os.stat_result:
        if path == f"{tmp_path}/." and not allowed:
            raise PermissionError(13, "Permission denied")
        return stat(path)

    monkeypatch.setattr(os, "stat", look)
    task = Task(str(tmp_path), ("ls",))
    assert [line.rpartition(": ")[2] for line in task_problems(task)] == (
        [] if allowed else ["permission denied"]
    )


@pytest.mark.parametrize("path", ["", "a\0b", "a\nb", "\ud800", "a" * 5000])
def test_a_rootfs_that_is_no_path(path: str) -> None:
    assert rootfs_error(path).cause
    assert len(task_problems(Task(path, ("ls",)))) == 1


def test_commands() -> None:
    assert problems() == ("command: is missing",)
    assert problems("") == ("command: must not be empty",)
    assert problems("a\0", "b\0", env=[("C", "\0")]) == (
        "command: must not hold a NUL byte",
        "argument 1: must not hold a NUL byte",
        'environment variable "C": must not hold a NUL byte',
    )
    assert problems("a", "\ud800") == ("argument 1: must be valid text",)


def test_long_strings() -> None:
    most = (128 << 10) - 1
    check_task(Task("/", ("a", "b" * most)), [("B", "c" * (most - 2))])
    assert problems("a", "b" * (200 << 10)) == (
        "argument 1: has 204800 bytes, the kernel takes less than 128K",
    )
    assert problems("a", env=[("B", "c" * (most - 1))]) == (
        'environment variable "B": has 131072 bytes, the kernel takes less than 128K',
    )


@pytest.mark.parametrize("name", ["a/b", "a\nb", "-", "ä", "x" * 65, ".."])
def test_names_that_are_refused(name: str) -> None:
    assert problems("true", name=name)[0].startswith("name: ")


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    task = Task(str(tmp_path / "no"), ("a\0", "b\0"), name="a/b")
    with pytest.raises(UsageError) as caught:
        check_task(task, ())
    assert len(caught.value.problems) == 4
    assert caught.value.problems == task_problems(task)


def test_descriptors_that_cannot_be_passed() -> None:
    with pytest.raises(UsageError, match="descriptors"):
        check_task(Task("/", ("ls",), pass_fds=(1,)), ())


TEXT = st.text(max_size=20)


@settings(deadline=None)
@given(TEXT, st.lists(TEXT, max_size=3), st.lists(st.tuples(TEXT, TEXT), max_size=3), TEXT)
def test_any_words_are_checked(
    rootfs: str, argv: list[str], env: list[tuple[str, str]], name: str
) -> None:
    task = Task(rootfs, tuple(argv), name=name)
    with suppress(SbxError):
        check_task(task, env)
        assert task_problems(task) == ()

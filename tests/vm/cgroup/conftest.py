"""Tests with control groups in a part of the tree that is the user's own."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.vm.box import Box, groups_in

USER = Path("/sys/fs/cgroup/user")  # what the guest's init delegates


def groups(parent: Path = USER) -> set[str]:
    """The control groups of sandboxes that there are."""
    return groups_in(parent)


@pytest.fixture(autouse=True)
def no_group_is_left() -> Iterator[None]:
    """Every test removes what it made, or has it removed."""
    before = groups()
    yield
    assert groups() <= before


def reap(box: Box) -> str:
    """Let the next runs remove what one has left, once its launcher is gone; what they said."""
    end = time.monotonic() + 60
    shown = ""
    while groups():
        assert time.monotonic() < end
        shown += box.sbx("run", "--read-only", box.rootfs, "true").stderr
    return shown


@pytest.fixture
def box(sbx: Sbx, rootfs: Path, tmp_path: Path) -> Box:
    return Box(sbx, rootfs, tmp_path)


@pytest.fixture
def own_scope() -> Iterator[Path]:
    """A folder that looks like a delegated unit: nothing above it is ours to divide."""
    folder = USER / "test.scope"
    folder.mkdir()
    os.setxattr(folder, "user.delegate", b"1")
    yield folder
    for below in [path for path in folder.iterdir() if path.is_dir()]:
        below.rmdir()
    folder.rmdir()

"""Tests of sbx run by the guest's root, who has the whole tree of control groups."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.vm.box import Box, groups_in

FOLDER = Path("/sys/fs/cgroup/sbx")


def groups() -> set[str]:
    """The control groups of sandboxes that there are."""
    return groups_in(FOLDER) if FOLDER.exists() else set()


@pytest.fixture(autouse=True)
def no_group_is_left() -> Iterator[None]:
    """Every test removes what it made, or has it removed."""
    yield
    assert groups() == set()


@pytest.fixture
def box(sbx: Sbx, rootfs: Path, tmp_path: Path) -> Box:
    return Box(sbx, rootfs, tmp_path)

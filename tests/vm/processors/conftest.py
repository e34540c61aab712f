"""Tests on a machine with several processors and every controller."""

from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.vm.box import Box


@pytest.fixture
def box(sbx: Sbx, rootfs: Path, tmp_path: Path) -> Box:
    return Box(sbx, rootfs, tmp_path)

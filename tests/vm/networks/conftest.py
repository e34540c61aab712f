"""Networks of root's, on a machine whose kernel has every queueing discipline."""

from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.kernel.privileged.conftest import host

__all__ = ["host"]


@pytest.fixture
def root(sbx: Sbx, tmp_path: Path) -> Path:
    """All that runs in these sandboxes."""
    done = sbx("rootfs", "from-host", tmp_path / "rootfs", "ping", "sleep")
    assert done.returncode == 0, done.stderr
    return tmp_path / "rootfs"

"""Tests with a manager of systemd's for the user: scopes asked of it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.vm.box import Box

UNIFIED = Path("/sys/fs/cgroup")
MANAGER = UNIFIED / f"user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service"


def scopes() -> list[Path]:
    """The scopes of sandboxes that there are."""
    return list(MANAGER.glob("**/*sbx-*.scope"))


@pytest.fixture(autouse=True)
def no_scope_is_left() -> Iterator[None]:
    """Afterwards no scope is left, or soon none."""
    yield
    end = time.monotonic() + 60
    while scopes():
        assert time.monotonic() < end, scopes()
        time.sleep(0.05)


@pytest.fixture(scope="session")
def sbx(sbx: Sbx) -> Sbx:
    """The manager is reached as in a session."""
    sbx.env["XDG_RUNTIME_DIR"] = os.environ["XDG_RUNTIME_DIR"]
    return sbx


@pytest.fixture
def box(sbx: Sbx, rootfs: Path, tmp_path: Path) -> Box:
    return Box(sbx, rootfs, tmp_path)

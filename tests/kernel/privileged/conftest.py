"""A host of its own for each test of root's networks."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support.worlds import STATE, Host


@pytest.fixture
def root(debian: Path) -> Path:
    """What the host's sandboxes run."""
    return debian


@pytest.fixture
def host(sbx: Sbx, root: Path) -> Iterator[Host]:
    """A host with a cable to a world, in namespaces; it ends as it began."""
    STATE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sbx-host-") as home:
        os.chmod(home, 0o700)
        made = Host(sbx.path, root, Path(home))
        try:
            yield made
        finally:
            made.close()

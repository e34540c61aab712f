"""Every test here checks that its runs leave nothing behind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support.terminals import Terminals


@pytest.fixture(autouse=True)
def _clean(leaves_nothing: None) -> None:
    """Apply `leaves_nothing` to all tests of this folder."""


@pytest.fixture
def terminals() -> Iterator[Terminals]:
    """Starts programs on terminals."""
    with Terminals.open() as found:
        yield found


def folders(sbx: Sbx) -> set[str]:
    """The names in the folder of state that are ids of sandboxes."""
    state = sbx.home / "state" / "sbx"
    return {p.name for p in state.iterdir() if len(p.name) == 12} if state.exists() else set()


@pytest.fixture
def detached(sbx: Sbx, rootfs: Path) -> Iterator[Callable[..., str]]:
    """Starts a sandbox in the background and returns its id; all are removed after the test."""
    before = folders(sbx)

    def start(*words: str, options: tuple[str, ...] = (), root: Path = rootfs) -> str:
        done = sbx("run", "-d", *options, root, *words)
        assert done.returncode == 0, done.stderr
        identity = done.stdout.strip()
        assert len(identity) == 12
        return identity

    yield start
    for identity in folders(sbx) - before:
        assert sbx("rm", "-f", identity).returncode == 0
    assert folders(sbx) <= before

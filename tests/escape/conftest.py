"""What the attacks share: the probe, a root file system of one's own, canaries, clean ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import probe


@pytest.fixture(autouse=True)
def _clean(leaves_nothing: None) -> None:
    """Apply `leaves_nothing` to all tests of this folder."""


@pytest.fixture(scope="session")
def probe_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled probe."""
    out = tmp_path_factory.mktemp("probe") / "probe"
    problem = probe.build(out)
    if problem:
        pytest.skip(problem)
    return out


@pytest.fixture(scope="session")
def probe_rootfs(probe_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system that holds the probe; tests do not change it."""
    return probe.make_rootfs(tmp_path_factory.mktemp("probe-rootfs"), probe_program)


@pytest.fixture(scope="session")
def attack_rootfs(probe_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the attacks beside the probe."""
    root = probe.make_rootfs(tmp_path_factory.mktemp("attack-rootfs"), probe_program)
    problem = probe.build(root / "attack", probe.ATTACKS)
    if problem:
        pytest.skip(problem)
    return root


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file of the host that no attack may read, change, replace or accompany with others."""
    folder = tmp_path / "host"
    folder.mkdir()
    path = folder / "canary"
    path.write_text("the host's secret\n")
    before = path.stat()
    yield path
    after = path.stat()
    assert path.read_text() == "the host's secret\n"
    assert [p.name for p in folder.iterdir()] == ["canary"]
    fields = ("st_ino", "st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_ctime_ns", "st_nlink")
    assert [getattr(after, f) for f in fields] == [getattr(before, f) for f in fields]

"""Tests that need control groups of the user's own: collected in a guest, and for one, only."""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Sbx
from tests.support.schema import violations

if not {"tests.vm.plugin", "tests.vm.record"} & set(sys.modules):
    collect_ignore_glob = ["test_*"]

USER = Path("/sys/fs/cgroup/user")  # what the guest's init delegates


def groups(parent: Path = USER) -> set[str]:
    """The control groups of sandboxes that there are."""
    return {path.name for path in parent.iterdir() if path.is_dir() and "sbx-" in path.name}


@pytest.fixture(autouse=True)
def no_group_is_left() -> Iterator[None]:
    """Every test removes what it made, or has it removed."""
    before = groups()
    yield
    assert groups() <= before


@dataclass(frozen=True)
class Box:
    """`sbx run` on a root that needs no copy, with its report."""

    sbx: Sbx
    rootfs: Path
    folder: Path

    def words(self, *words: object, name: str = "report") -> list[object]:
        """The words of a run: options first, then "--", then the command."""
        at = words.index("--")
        options = ("--read-only", "--report", self.folder / name, *words[:at])
        return ["run", "-q", *options, self.rootfs, *words[at + 1 :]]

    def report(self, name: str = "report") -> dict[str, Any]:
        """The report of a run that has ended."""
        found: dict[str, Any] = json.loads((self.folder / name).read_text())
        assert violations(found) == []
        return found

    def run(self, *words: object) -> dict[str, Any]:
        """Run to the end; the report, with what was printed under "shown"."""
        done = self.sbx(*self.words(*words), timeout=100)
        return {**self.report(), "returncode": done.returncode, "shown": done.stdout + done.stderr}


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

"""Runs in a guest, with their reports."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import Sbx
from tests.support.schema import violations


def groups_in(parent: Path) -> set[str]:
    """The control groups of sandboxes that there are."""
    return {path.name for path in parent.iterdir() if path.is_dir() and "sbx-" in path.name}


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

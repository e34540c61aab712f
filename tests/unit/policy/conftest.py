"""Every test has its own configuration, cache and policy folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Move the user's folders into the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for policies, beside which nothing else is looked up."""
    made = tmp_path / "policies"
    made.mkdir()
    return made


def write_policy(path: Path, text: str, *, age_s: float = 60) -> Path:
    """Write a policy that was last changed a while ago, and that only its owner can change."""
    path.write_text(text)
    path.chmod(0o644)
    before = path.stat().st_mtime - age_s
    os.utime(path, (before, before))
    return path

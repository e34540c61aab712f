"""Users and groups of a hostile root file system: what cannot be read is said, nothing raises."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.errors import PolicyError
from sandbox.host.accounts import Account, find_account


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("app:x:7:8:An app:/srv:/bin/sh\n")
    (tmp_path / "etc/group").write_text("staff:x:50:\n")
    return tmp_path


def test_names_and_numbers(root: Path) -> None:
    assert find_account(str(root), "app", "staff") == Account(7, 50, "app", "/srv", "/bin/sh")
    assert find_account(str(root), 9, None) == Account(9)


@pytest.mark.parametrize(
    "replace", [lambda path: path.mkdir(), lambda path: path.symlink_to(path.name)]
)
def test_a_file_that_cannot_be_read_is_the_cause(root: Path, replace) -> None:  # type: ignore[no-untyped-def]
    for name in ("passwd", "group"):
        (root / "etc" / name).unlink()
        replace(root / "etc" / name)
    assert find_account(str(root), 9, None) == Account(9)
    with pytest.raises(PolicyError) as caught:
        find_account(str(root), "app", None)
    assert "/etc/passwd cannot be read" in caught.value.cause
    with pytest.raises(PolicyError) as caught:
        find_account(str(root), 9, "staff")
    assert "/etc/group cannot be read" in caught.value.cause


def test_a_missing_file_has_no_such_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        find_account(str(tmp_path), "app", None)
    assert "no such line" in caught.value.cause

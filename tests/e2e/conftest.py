"""Every test here checks that its runs leave nothing behind."""

import pytest


@pytest.fixture(autouse=True)
def _clean(leaves_nothing: None) -> None:
    """Apply `leaves_nothing` to all tests of this folder."""

"""The flags for limits of the whole sandbox."""

from __future__ import annotations

import pytest

from sandbox.cli.values import cpu_shares, number_or_unlimited


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (512, 59), (2048, 174)]
)
def test_shares(shares: int, weight: int) -> None:
    assert cpu_shares(str(shares)) == weight


def test_shares_never_turn_round() -> None:
    weights = [cpu_shares(str(shares)) for shares in range(2, 262145, 111)]
    assert weights == sorted(weights)
    assert weights[0] >= 1


@pytest.mark.parametrize("text", ["0", "1", "262145", "-1", "x", ""])
def test_impossible_shares(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|whole"):
        cpu_shares(text)


def test_no_limit_of_processes() -> None:
    assert number_or_unlimited("0") == number_or_unlimited("-1") == "unlimited"
    assert number_or_unlimited("7") == 7

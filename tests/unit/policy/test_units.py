"""Numbers as policies write them."""

from __future__ import annotations

import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.policy.units import (
    format_duration,
    format_limit,
    format_size,
    parse_duration,
    parse_limit,
    parse_size,
    quote,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("0", 0),
        ("64K", 64 << 10),
        ("512m", 512 << 20),
        ("1GiB", 1 << 30),
        ("1gb", 1 << 30),
        ("1.5G", 3 << 29),
        ("2T", 2 << 40),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "1X",
        "-1",
        -1,
        "1.2.3K",
        True,
        None,
        1.5,
        1 << 63,
        "9" * 30,
        "50%",
        "1K 2K",
        [],
        "²",
    ],
)
def test_wrong_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


def test_percent_is_of_this_machines_memory() -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert abs(parse_size("50%", percent=True) - memory // 2) <= 4096


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0, 0),
        (90, 90),
        (1.5, 1.5),
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("250ms", 0.25),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "5x", -1, "-1s", math.nan, math.inf, True, None, "1m30", "20y", 1e12, []]
)
def test_wrong_durations(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        (1, (1, 1)),
        ("1024:4096", (1024, 4096)),
        ("8M:64M", (8 << 20, 64 << 20)),
        ("unlimited", (None, None)),
        ("1G:unlimited", (1 << 30, None)),
        ((1, None), (1, None)),
    ],
)
def test_limits(text: object, pair: tuple[int | None, int | None]) -> None:
    assert parse_limit(text) == pair


@pytest.mark.parametrize(
    "text", ["", "2:1", "unlimited:1", "1:2:3", True, -2, (1, 2, 3), {}, "a:b"]
)
def test_wrong_limits(text: object) -> None:
    with pytest.raises(ValueError, match=r"limit|number"):
        parse_limit(text)


@given(st.integers(0, (1 << 63) - 1))
def test_shown_sizes_read_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**6).map(lambda tenths: tenths / 10))
def test_shown_durations_read_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@given(st.one_of(st.none(), st.integers(0, 1 << 62)))
def test_shown_limits_read_back(hard: int | None) -> None:
    assert parse_limit(format_limit(0, hard)) == (0, hard)


def test_quoted_values_are_short_and_in_tomls_words() -> None:
    assert quote("a") == '"a"'
    assert len(quote("a" * 1000)) < 100
    assert quote(True) == "true"
    assert quote(10**5000) == "a huge number"
    values: tuple[object, ...] = (None, [], {}, b"")
    assert [quote(shown) for shown in values] == ["nothing", "a list", "a table", "a bytes"]

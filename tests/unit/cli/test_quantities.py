"""Moments, sizes and keys as people write and read them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.cli.commands.attach import read_keys
from sandbox.cli.commands.control import signal_number
from sandbox.cli.quantities import format_bytes, format_time, parse_time
from sandbox.errors import UsageError

NOW = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("text", "at_ns"),
    [
        ("1700000000", NOW),
        ("1700000000.5", NOW + 500_000_000),
        ("1700000000.123456789", NOW + 123_456_789),
        ("0", 0),
        ("10m", NOW - 600 * 10**9),
        ("1h30m", NOW - 5400 * 10**9),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20.123456Z", NOW + 123_456_000),
        ("2023-11-14T23:13:20+01:00", NOW),
    ],
)
def test_times(text: str, at_ns: int) -> None:
    assert parse_time(text, NOW) == at_ns


@pytest.mark.parametrize(
    "text", ["", ".", "yesterday", "-5", "12:00", "2023-13-01", "\u0661", "1.x", "9" * 20]
)
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time"):
        parse_time(text, NOW)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_time(text, NOW), int)


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_a_shown_time_is_read_again(at_ns: int) -> None:
    shown = format_time(at_ns)
    assert len(shown) == len("2023-11-14T22:13:20.123456789Z")
    assert parse_time(shown) == at_ns


def test_sizes() -> None:
    assert [format_bytes(n) for n in (None, 0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "-", "0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 TiB",
    ]  # fmt: skip
    assert format_bytes(5000 << 40) == "5000.0 TiB"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-a,d", b"\x01d"),
        ("ctrl-@", b"\0"),
        ("ctrl-[", b"\x1b"),
    ],
)
def test_keys(text: str, keys: bytes) -> None:
    assert read_keys(text) == keys


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-pp", "esc", "a,,b", "\x01", "ä", "ctrl-ä"])
def test_no_keys(text: str) -> None:
    with pytest.raises(UsageError):
        read_keys(text)


@pytest.mark.parametrize(
    ("word", "number"), [("KILL", 9), ("sigterm", 15), ("9", 9), ("64", 64), ("usr1", 10)]
)
def test_signals(word: str, number: int) -> None:
    assert signal_number(word) == number


@pytest.mark.parametrize("word", ["", "0", "65", "-9", "SIGNOSUCH", "9999999999", "²"])
def test_no_signals(word: str) -> None:
    with pytest.raises(UsageError):
        signal_number(word)

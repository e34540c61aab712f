"""Subordinate ids: what the files say, and the maps that follow from it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import HostError
from sandbox.host import subids
from sandbox.host.subids import (
    ID_LIMIT,
    MAX_EXTENTS,
    MAX_MAP_TEXT,
    inner_map,
    parse_getsubids,
    parse_subids,
    range_map,
    read_subids,
    single_map,
    without_inside,
)

Extents = tuple[tuple[int, int, int], ...]


def parse(text: str, name: str = "ana", uid: int = 1000) -> subids.SubIds:
    return parse_subids(text, "/etc/subuid", name, uid, uid)


def test_lines_by_name_and_by_number_count_both() -> None:
    text = "bob:500000:10\nana:100000:65536\n1000:300000:10\nanabel:400000:10\n"
    assert parse(text).ranges == ((100000, 65536), (300000, 10))


def test_blank_lines_and_comments_are_silent() -> None:
    found = parse("\n# ana:1:2\n  \nana:100000:5\n")
    assert (found.ranges, found.problems) == (((100000, 5),), ())


@pytest.mark.parametrize(
    "line",
    [
        "ana",
        "ana:100000",
        "ana:100000:5:6",
        ":100000:5",
        "ana:x:5",
        "ana:-5:5",
        "ana:100000:٣",
        "ana:4294967290:10",
        "ana:99999999999:1",
    ],
)
def test_malformed_lines_are_named_and_skipped(line: str) -> None:
    found = parse(f"{line}\nana:100000:5\n")
    assert found.ranges == ((100000, 5),)
    assert found.problems == (f"/etc/subuid:1: expected NAME:START:COUNT, found {line!r}",)


def test_equal_lines_count_once_and_empty_ones_not() -> None:
    assert parse("ana:100000:5\n1000:100000:5\nana:200000:0\n").ranges == ((100000, 5),)


def test_overlap_is_refused_with_both_lines() -> None:
    with pytest.raises(HostError) as caught:
        parse("ana:100000:65536\n\nana:165535:10\n")
    assert caught.value.what == "subordinate ids overlap in /etc/subuid:3"
    assert "100000:65536 of /etc/subuid:1" in caught.value.cause


def test_overlap_of_another_user_is_not_ours() -> None:
    assert parse("bob:100000:9\nbob:100001:9\nana:100000:5\n").ranges == ((100000, 5),)


def test_range_with_the_own_id_is_refused() -> None:
    with pytest.raises(HostError, match="overlap in /etc/subuid:1") as caught:
        parse("ana:500:1000\n")
    assert caught.value.cause == "500:1000 contains 1000, the caller's own id"


def test_missing_file_has_no_ranges(tmp_path: Path) -> None:
    assert read_subids("uid", "ana", 1000, 1000, etc=str(tmp_path)).ranges == ()


def test_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "subuid").mkdir()
    with pytest.raises(HostError, match="cannot read"):
        read_subids("uid", "ana", 1000, 1000, etc=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "elsewhere"),
    [
        ("", False),
        ("passwd: files sss\n", False),
        ("subid: files\n", False),
        ("subid:\n", False),
        ("# subid: sss\n", False),
        ("subid: sss # central\n", True),
        (" subid :\tsss\n", True),
    ],
)
def test_nsswitch(text: str, elsewhere: bool) -> None:
    assert subids.nss_has_subids(text) is elsewhere


def test_getsubids_is_asked_only_without_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(kind: str, name: str) -> str:
        asked.append((kind, name))
        return f"0: {name} 700000 65536\n1: {name} 900000 5\n"

    monkeypatch.setattr(subids, "_ask_getsubids", answer)
    monkeypatch.setattr(subids, "GETSUBIDS", "/bin/sh")
    (tmp_path / "nsswitch.conf").write_text("subid: sss\n")
    (tmp_path / "subuid").write_text("ana:100000:5\n")
    (tmp_path / "subgid").write_text("bob:100000:5\nwrong\n")
    assert read_subids("uid", "ana", 1000, 1000, etc=str(tmp_path)).ranges == ((100000, 5),)
    assert asked == []
    found = read_subids("gid", "ana", 1000, 1000, etc=str(tmp_path))
    assert found.ranges == ((700000, 65536), (900000, 5))
    assert found.source == "getsubids"
    assert len(found.problems) == 1
    assert asked == [("gid", "ana")]


def test_getsubids_that_fails_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subids, "GETSUBIDS", "/bin/false")
    assert subids._ask_getsubids("gid", "ana") == ""
    monkeypatch.setattr(subids, "GETSUBIDS", "/nonexistent")
    assert subids._ask_getsubids("uid", "ana") == ""
    assert parse_getsubids("Error fetching ranges\n0: ana x 5\n", 1000).ranges == ()


# ---- maps ----


@st.composite
def ranges(draw: st.DrawFn, most: int = 6) -> tuple[tuple[int, int], ...]:
    """Ranges that never overlap, in any order, none of them with ids below 100000."""
    found = []
    start = 100000
    for _ in range(draw(st.integers(0, most))):
        start += draw(st.integers(0, 1000))
        count = draw(st.integers(1, 70000))
        found.append((start, count))
        start += count
    return tuple(draw(st.permutations(found)))


def check_bijective(extents: Extents) -> None:
    """No number twice on either side, nothing empty or out of range, and the kernel's limits."""
    for side in (0, 1):
        spans = sorted((extent[side], extent[side] + extent[2]) for extent in extents)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert spans[-1][1] <= ID_LIMIT
    assert all(count > 0 for _, _, count in extents)
    assert len(extents) <= MAX_EXTENTS
    assert sum(len(f"{i} {o} {c}\n") for i, o, c in extents) <= MAX_MAP_TEXT


def lookup(extents: Extents, inside: int) -> int | None:
    found = [o + inside - i for i, o, c in extents if i <= inside < i + c]
    return found[0] if found else None


def total(extents: Extents) -> int:
    return sum(count for _, _, count in extents)


def within(outside: Extents, inner: Extents) -> bool:
    """Whether each extent of `inner` lies in one of the parent namespace's."""
    return all(
        any(i <= number and number + count <= i + c for i, _, c in outside)
        for _, number, count in inner
    )


@settings(deadline=None)
@given(ranges(), st.integers(1, 200000))
def test_range_map(given_ranges: tuple[tuple[int, int], ...], want: int) -> None:
    extents = range_map(1000, given_ranges, want)
    check_bijective(extents)
    assert lookup(extents, 0) == 1000
    assert total(extents) == min(want, 1 + sum(count for _, count in given_ranges))
    # Without a gap from 0 on.
    assert {lookup(extents, number) is None for number in range(0, total(extents), 997)} == {False}
    if given_ranges and want > 1:
        assert lookup(extents, 1) == given_ranges[0][0]


@settings(deadline=None)
@given(ranges(), st.integers(0, 100000), st.sampled_from(("range", "keep-id", "single")))
def test_inner_map(given_ranges: tuple[tuple[int, int], ...], n: int, kind: str) -> None:
    outer = range_map(1000, given_ranges)
    extents = inner_map(kind, n, outer)
    check_bijective(extents)
    assert within(outer, extents)
    assert lookup(extents, 0 if kind == "range" else n) == 0
    assert total(extents) == (1 if kind == "single" else total(outer))


@settings(deadline=None)
@given(ranges(), st.integers(0, 100000), st.sampled_from(("range", "keep-id", "single")))
def test_inner_after_outer_is_the_direct_map(
    given_ranges: tuple[tuple[int, int], ...], n: int, kind: str
) -> None:
    outer = range_map(1000, given_ranges)
    inner = inner_map(kind, n, outer)
    for number in {0, 1, 2, n - 1, n, n + 1, total(outer) - 1, total(outer)} - {-1}:
        through = lookup(inner, number)
        found = None if through is None else lookup(outer, through)
        if kind == "range":
            assert found == lookup(outer, number)
        elif number == n:
            assert found == 1000
        else:  # the numbers around the caller's are the subordinate ids in their order
            nth = number + 1 if number < n else number
            assert found == (None if kind == "single" else lookup(outer, nth))


@settings(deadline=None)
@given(ranges(), st.integers(0, 70000), st.integers(0, 100000))
def test_without_inside(given_ranges: tuple[tuple[int, int], ...], n: int, hole: int) -> None:
    before = inner_map("keep-id", n, range_map(1000, given_ranges))
    after = without_inside(before, hole)
    check_bijective(after)
    assert lookup(after, hole) is None
    assert total(after) == total(before)
    for number in {0, n, hole - 1, hole + 1, total(before) - 1} - {hole}:
        assert lookup(before, number) in (None, lookup(after, number))
    moved = lookup(before, hole)
    if moved is not None:
        assert any(outside <= moved < outside + count for _, outside, count in after)


def test_many_ranges_stay_within_the_limits_of_the_kernel() -> None:
    many = tuple((100000 + 2 * n, 1) for n in range(1000))
    outer = range_map(1000, many)
    for extents in (outer, inner_map("keep-id", 500, outer)):
        check_bijective(extents)
        assert len(extents) > 200
    assert lookup(inner_map("keep-id", 60000, outer), 60000) == 0


def test_plain_shapes() -> None:
    assert range_map(1000, ((100000, 65536),)) == ((0, 1000, 1), (1, 100000, 65535))
    assert single_map(1000, 7) == ((7, 1000, 1),)
    outer = range_map(1000, ((100000, 600), (200000, 600)))
    assert inner_map("range", 0, outer) == ((0, 0, 1), (1, 1, 600), (601, 601, 600))
    assert inner_map("keep-id", 1000, outer) == (
        (1000, 0, 1),
        (0, 1, 600),
        (600, 601, 400),
        (1001, 1001, 200),
    )

"""The log as its reader sees it: whole, over rotations, cut off and damaged."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import StateError
from sandbox.runtime.description import Description
from sandbox.runtime.logs import LogReader, Output, lines_of, tail
from sandbox.runtime.registry import Folder

HEAD = struct.Struct("<QIB3x")


class Writer:
    """Writes as the launcher does: two files, the older of which goes when the other is full."""

    def __init__(self, path: str, most: int) -> None:
        self._path = f"{path}/log"
        self._half = most // 2
        self._before = self._bytes = 0
        self._clock = 0
        self._file = -1

    def write(self, stream: int, data: bytes) -> None:
        if self._file >= 0 and self._bytes + len(data) > self._half and self._bytes > 64:
            self._before += self._bytes
            os.rename(self._path, f"{self._path}.1")
            self.close()
        if self._file < 0:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._bytes = 0
            self._append(0, struct.pack("<Q", self._before))
        self._append(stream, data)

    def _append(self, stream: int, data: bytes) -> None:
        self._clock += 1
        self._bytes += os.write(self._file, HEAD.pack(self._clock, len(data), stream) + data)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


@contextmanager
def place() -> Iterator[Folder]:
    with tempfile.TemporaryDirectory() as path:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        folder = Folder(path, fd, Description("0" * 12, "box", 0.0, "", "", (), ""))
        try:
            yield folder
        finally:
            folder.close()


def joined(outputs: list[Output]) -> tuple[bytes, bytes]:
    one, two = (b"".join(o.data for o in outputs if o.stream == stream) for stream in (1, 2))
    return one, two


PIECES = st.lists(st.tuples(st.integers(1, 2), st.binary(min_size=1, max_size=60)), max_size=60)


@given(PIECES, st.sampled_from([100, 400, 1 << 20]), st.lists(st.integers(0, 60), max_size=5))
def test_a_reader_that_keeps_up_misses_nothing(
    pieces: list[tuple[int, bytes]], most: int, reads: list[int]
) -> None:
    with place() as folder:
        writer, reader = Writer(folder.path, most), LogReader(folder)
        found: list[Output] = []
        for at, (stream, data) in enumerate(pieces):
            writer.write(stream, data)
            if at in reads or most < 1 << 20:
                found += reader.read()
        found += reader.read()
        assert joined(found) == tuple(
            b"".join(data for stream, data in pieces if stream == wanted) for wanted in (1, 2)
        )
        assert not any(output.lost for output in found)
        assert [o.at_ns for o in found] == sorted(o.at_ns for o in found)
        assert list(reader.read()) == []
        writer.close()
        reader.close()


@given(st.lists(st.integers(0, 60), max_size=60), st.integers(0, 60))
def test_a_slow_reader_finds_the_end_and_is_told_of_each_gap(sizes: list[int], first: int) -> None:
    with place() as folder:
        writer, reader = Writer(folder.path, 300), LogReader(folder)
        found: list[Output] = []
        for at, size in enumerate(sizes):
            writer.write(1, bytes((at,)) + b"x" * size)
            if at == first:
                found += reader.read()
        found += reader.read()
        place_of_next = 0
        for output in found:
            if output.lost:
                place_of_next = -1
            else:
                assert place_of_next in (-1, output.data[0])
                place_of_next = output.data[0] + 1
        assert place_of_next == len(sizes)
        writer.close()
        reader.close()


@given(PIECES)
def test_from_the_end_only_what_comes_later_is_read(pieces: list[tuple[int, bytes]]) -> None:
    with place() as folder:
        writer = Writer(folder.path, 1 << 20)
        for stream, data in pieces:
            writer.write(stream, data)
        reader = LogReader(folder, at_end=True)
        assert list(reader.read()) == []
        writer.write(1, b"later")
        assert [output.data for output in reader.read()] == [b"later"]
        writer.close()
        reader.close()


@given(PIECES, st.integers(0, 4000))
def test_a_file_that_ends_too_early_is_read_as_far_as_it_goes(
    pieces: list[tuple[int, bytes]], cut: int
) -> None:
    with place() as folder:
        writer = Writer(folder.path, 1 << 20)
        for stream, data in pieces:
            writer.write(stream, data)
        writer.close()
        if pieces:
            os.truncate(f"{folder.path}/log", min(cut, os.stat(f"{folder.path}/log").st_size))
        reader = LogReader(folder)
        found = [(output.stream, output.data) for output in reader.read()]
        assert found == pieces[: len(found)]
        reader.close()


@given(st.binary(max_size=400), st.binary(max_size=400), st.booleans())
def test_any_bytes_are_output_or_one_error(older: bytes, newer: bytes, at_end: bool) -> None:
    with place() as folder:
        for name, data in (("log.1", older), ("log", newer)):
            with open(f"{folder.path}/{name}", "wb") as file:
                file.write(data)
        with suppress(StateError):
            reader = LogReader(folder, at_end=at_end)
            try:
                assert all(output.stream in (1, 2) for output in reader.read())
            finally:
                reader.close()


def test_a_damaged_head_is_an_error_after_what_was_good() -> None:
    with place() as folder:
        writer = Writer(folder.path, 1 << 20)
        writer.write(1, b"good")
        writer.close()
        with open(f"{folder.path}/log", "ab") as file:
            file.write(HEAD.pack(1, 5, 9) + b"wrong")
        reader = LogReader(folder)
        found = reader.read()
        assert next(found).data == b"good"
        with pytest.raises(StateError, match="damaged"):
            next(found)
        reader.close()


def test_no_log_is_no_output() -> None:
    with place() as folder:
        assert list(LogReader(folder).read()) == []
        assert list(LogReader(folder, at_end=True).read()) == []


# ---- lines ---------------------------------------------------------------------------------------


@given(PIECES, st.integers(0, 9))
def test_tail_is_the_last_lines(pieces: list[tuple[int, bytes]], wanted: int) -> None:
    outputs = [Output(at, stream, data) for at, (stream, data) in enumerate(pieces)]
    lines = list(lines_of(outputs))
    assert joined(lines) == joined(outputs)
    assert all(line.data.count(b"\n") <= 1 for line in lines)
    assert all(line.data.endswith(b"\n") for line in lines[: len(lines) - 2])
    assert tail(outputs, wanted) == (lines[-wanted:] if wanted else [])


def test_lines_of_two_streams_are_put_together_each_for_itself() -> None:
    pieces = [(1, b"o"), (2, b"e\ne"), (1, b"ut\nrest"), (2, b"rr\n")]
    outputs = [Output(at, stream, data) for at, (stream, data) in enumerate(pieces)]
    assert [(line.at_ns, line.stream, line.data) for line in lines_of(outputs)] == [
        (1, 2, b"e\n"), (0, 1, b"out\n"), (1, 2, b"err\n"), (2, 1, b"rest"),
    ]  # fmt: skip


def test_a_line_of_many_pieces_takes_no_quadratic_time() -> None:
    outputs = [Output(at, 1, b"x") for at in range(200_000)]
    (line,) = tail(outputs, 1)
    assert len(line.data) == 200_000

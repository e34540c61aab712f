"""What is printed cannot steer a terminal, and errors have their fixed form."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.cli import render
from sandbox.errors import OutputError, PolicyError, SbxError


@given(st.text(alphabet=st.characters()))
def test_nothing_unprintable_is_left(text: str) -> None:
    shown = render.escape(text)
    assert shown == "" or shown.isprintable()
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    shown.encode()


@given(st.binary())
def test_any_file_name_can_be_shown(name: bytes) -> None:
    render.escape(name.decode("utf-8", "surrogateescape")).encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode 漢字", "plain, ünïcode 漢字"),
        ("\x1b[31m\x07", "\\x1b[31m\\x07"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x9b2J\x85", "\\x9b2J\\x85"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\u2028\u200f\ufeff", "\\u2028\\u200f\\ufeff"),
        (b"\xff\xfeA".decode("utf-8", "surrogateescape"), "\\xff\\xfeA"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("\x7f\x00", "\\x7f\\x00"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert render.escape(text) == shown


def test_error_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    render.show_error(
        PolicyError(
            "build.toml has 2 problems",
            problems=('mounts[3].target: must be absolute, found "src"', 'x: "\x1b[2J"'),
            cause="a reason",
            hint="do this",
        )
    )
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "sbx: error: build.toml has 2 problems\n"
        '  mounts[3].target: must be absolute, found "src"\n'
        '  x: "\\x1b[2J"\n'
        "  cause: a reason\n"
        "  hint: do this\n"
    )


def test_error_as_json_is_one_object_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    render.show_error(SbxError("odd \udcff\x9b\x7f name", hint="h"), json=True)
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.isascii()
    assert json.loads(text) == {
        "error": "SbxError",
        "what": "odd \udcff\x9b\x7f name",
        "cause": "",
        "hint": "h",
        "problems": [],
        "exit_code": 125,
    }


def test_stream_that_knows_only_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    render.show("naïve 漢")
    assert stream.buffer.getvalue() == b"na\\xefve \\u6f22\n"


def test_closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that cannot be shown is an error; of a note, nobody is left to be told."""
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    with pytest.raises(OutputError):
        render.show("x")
    render.warn("y")


def test_table_is_aligned() -> None:
    assert render.table([("a", "ok", "long text"), ("bcd\n", "fail", "")]) == [
        "a      ok    long text",
        "bcd\\n  fail",
    ]


def test_of_very_many_problems_some_are_shown() -> None:
    error = PolicyError("x has 1000 problems", problems=tuple(f"p{n}" for n in range(1000)))
    lines = render.error_lines(error)
    assert lines[-1] == "  … and 960 more"
    assert len(lines) == 42

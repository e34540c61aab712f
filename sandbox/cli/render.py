"""The one place that prints what sbx itself has to say: errors, warnings, results, JSON.

Nothing that is printed can steer the terminal: every character that is not printable, and every
byte of an argument or file name that is not UTF-8, is shown as an escape.
"""

from __future__ import annotations

import os
import sys
import time

from sandbox.errors import OutputError, SbxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

PROBLEMS_MAX = 40  # that people are shown; JSON has them all
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def escape(text: str) -> str:
    r"""Return `text` with everything unprintable as \n, \x1b, \u202e or \U000e0001.

    That covers control bytes, C1 controls, line separators, bidirectional and other format
    controls, and private or unassigned characters; bytes that were not UTF-8 (kept by Python as
    lone surrogates) come out as the byte, \xff.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape_char(char) for char in text)


def _escape_char(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _write(stream: TextIO, lines: list[str]) -> None:
    """Write lines, already escaped; characters that the stream lacks become escapes too."""
    text = "".join(f"{line}\n" for line in lines)
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _print(lines: list[str]) -> None:
    """Write to standard output, which is the result: raises OutputError when it takes none.

    A reader that went away is no failure of ours: BrokenPipeError stays what it is.
    """
    if sys.stdout is None:
        raise OutputError("cannot write to standard output", cause="it is closed")
    try:
        _write(sys.stdout, lines)
    except BrokenPipeError:
        raise
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise OutputError("cannot write to standard output", cause=cause) from error


def _tell(lines: list[str]) -> None:
    """Write to standard error; where it takes nothing, nobody is left to be told."""
    if sys.stderr is None:
        return
    try:
        _write(sys.stderr, lines)
    except OSError:
        discard(sys.stderr)


def discard(*streams: TextIO | None) -> None:
    """Let nothing that is still buffered fail again when the interpreter ends."""
    for stream in streams:
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, stream.fileno())
            os.close(null)


def show(*lines: str) -> None:
    """Print lines of a result on standard output."""
    _print([escape(line) for line in lines])


def show_text(text: str) -> None:
    """Print a text of our own on standard output, as it stands: help, a script."""
    _print(text.rstrip("\n").split("\n"))


def show_bytes(stream: TextIO | None, data: bytes) -> None:
    """Write bytes that are not ours on standard output or error as they are, all of them.

    Raises OutputError, and BrokenPipeError for a reader that went away.
    """
    name = "standard output" if stream is sys.stdout else "standard error"
    if stream is None:
        raise OutputError(f"cannot write to {name}", cause="it is closed")
    fd, left = stream.fileno(), memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            from select import POLLOUT, poll

            waiting = poll()
            waiting.register(fd, POLLOUT)
            waiting.poll()
        except BrokenPipeError:
            raise
        except OSError as error:
            cause = (error.strerror or str(error)).lower()
            raise OutputError(f"cannot write to {name}", cause=cause) from error


def note(*lines: str) -> None:
    """Print lines for people on standard error."""
    _tell([escape(line) for line in lines])


def warn(what: str, cause: str = "", *, json: bool = False) -> None:
    """Print one warning on standard error: a line for people, or one line of JSON."""
    if json:
        from json import dumps

        _tell([dumps({"warning": what, "cause": cause})])
    else:
        note(f"sbx: warning: {what}{f': {cause}' if cause else ''}")


def show_json(value: object) -> None:
    """Print one JSON value on standard output, indented; ASCII, so nothing needs an escape."""
    import json

    _print(json.dumps(value, indent=2, default=str).split("\n"))


def error_lines(error: SbxError) -> list[str]:
    """The lines of one error: what, problems, cause and hint."""
    lines = [f"sbx: error: {error.what}"]
    lines += [f"  {problem}" for problem in error.problems[:PROBLEMS_MAX]]
    more = len(error.problems) - PROBLEMS_MAX
    lines += [f"  … and {more} more"] if more > 0 else []
    lines += [f"  cause: {error.cause}"] if error.cause else []
    lines += [f"  hint: {error.hint}"] if error.hint else []
    return lines


def show_error(error: SbxError, *, json: bool = False) -> None:
    """Print one error on standard error: lines for people, or one line of JSON."""
    if not json:
        note(*error_lines(error))
        return
    from json import dumps

    _tell([dumps(error.as_dict())])


def internal_error(error: Exception) -> SbxError:
    """Return the error to show for one that nobody foresaw."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return SbxError(
        f"internal error: {text}", hint="run the same command with --debug and report what it shows"
    )


def show_traceback(error: BaseException, started: float) -> None:
    """Print where an error came from, and how many milliseconds after `started` (monotonic)."""
    import traceback

    note(*"".join(traceback.format_exception(error)).rstrip("\n").split("\n"))
    show_time("failed", started)


def show_time(what: str, started: float) -> None:
    """Print how many milliseconds after `started` something happened."""
    note(f"sbx: debug: {what} after {(time.monotonic() - started) * 1000:.1f} ms")


def table(rows: Sequence[tuple[str, ...]], widest: int = 60) -> list[str]:
    """Lines with columns aligned; a cell above `widest` characters only moves its own line."""
    escaped = [tuple(escape(cell) for cell in row) for row in rows]
    widths = [
        max((len(c) for c in column if len(c) <= widest), default=0)
        for column in zip(*escaped, strict=True)
    ]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in escaped
    ]

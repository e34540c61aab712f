"""`sbx logs`: the output of a detached sandbox."""

from __future__ import annotations

import codecs
import sys

from sandbox.cli import quantities, render
from sandbox.errors import StateError, UsageError
from sandbox.runtime.logs import LogReader
from sandbox.runtime.registry import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.cli.parse import Parsed
    from sandbox.runtime.logs import Output
    from sandbox.runtime.registry import Folder


def main(parsed: Parsed) -> int:
    """Show the output of SANDBOX: what came on its standard error goes to standard error.

    On a terminal control characters are shown as escapes, unless the sandbox has a terminal of
    its own (-t). Above the size of --log-max-size the oldest output is gone; that is said.
    """
    lines = _lines(parsed.text_or("--tail", "all"))
    first_ns = since_ns(parsed.text("--since"))
    folder = find(parsed.words[0])
    try:
        refuse_foreground(folder)
        escaped = not (parsed.has("--raw") or folder.description.tty)
        printer = Printer(timestamps=parsed.has("--timestamps"), escaped=escaped)
        reader = LogReader(folder)
        try:
            _show(folder, reader, printer, (lines, first_ns, parsed.has("--follow")))
        finally:
            reader.close()
    finally:
        folder.close()
    return 0


def _show(
    folder: Folder,
    reader: LogReader,
    printer: Printer,
    wanted: tuple[int | None, int, bool],
) -> None:
    from sandbox.runtime.following import Follower
    from sandbox.runtime.logs import tail

    lines, first_ns, follow = wanted

    def late(outputs: Iterable[Output]) -> Iterable[Output]:
        return (o for o in outputs if o.lost or first_ns <= o.at_ns)

    follower = Follower(folder) if follow else None
    try:
        found = late(reader.read())
        printer.show(found if lines is None else tail(found, lines))
        while follower:
            ended = follower.ended()  # before the reading: then that finds all there is
            printer.show(late(reader.read()))
            if ended:
                return
            follower.wait()
    finally:
        if follower:
            follower.close()


def _lines(text: str) -> int | None:
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise UsageError(f'--tail: "{text}" must be a number of lines or "all"')
    return int(text)


def since_ns(text: str | None) -> int:
    """What --since says, 0 when it is not given. Raises UsageError."""
    try:
        return 0 if text is None else quantities.parse_time(text)
    except ValueError as error:
        raise UsageError(f"--since: {error}") from error


def refuse_foreground(folder: Folder) -> None:
    """Raise StateError for a sandbox whose output is not kept."""
    if not folder.description.detached:
        raise StateError(
            f"the output of sandbox {folder.name} is not kept",
            cause="it runs in the foreground, and its output goes to its own caller",
            hint="start it with: sbx run -d",
        )


class Printer:
    """Prints output of a sandbox on the stream that it came on.

    With `timestamps` each line of a stream begins with its time; where `escaped`, control
    characters are no danger to a terminal.
    """

    def __init__(self, *, timestamps: bool = False, escaped: bool = True) -> None:
        self._timestamps = timestamps
        self._escaped = escaped
        self._inside: dict[int, bool] = {}  # stream: whether the last line is not ended
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._said = False

    def show(self, outputs: Iterable[Output]) -> None:
        """Print; what is missing is said once. Raises OutputError."""
        for output in outputs:
            if output.lost and not self._said:
                self._said = True
                render.warn(
                    "the log does not go back to the beginning", f"{output.lost} bytes are gone"
                )
            if output.data:
                self._print(output)

    def _print(self, output: Output) -> None:
        stream = sys.stdout if output.stream == 1 else sys.stderr
        data = output.data
        if self._escaped and stream is not None and stream.isatty():
            data = self._escape(output.stream, data)
        if self._timestamps:
            data = self._stamp(output, data)
        render.show_bytes(stream, data)

    def _escape(self, stream: int, data: bytes) -> bytes:
        if stream not in self._decoders:
            self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        text = self._decoders[stream].decode(data)
        lines = ("\t".join(map(render.escape, line.split("\t"))) for line in text.split("\n"))
        return "\n".join(lines).encode()

    def _stamp(self, output: Output, data: bytes) -> bytes:
        mark = f"{quantities.format_time(output.at_ns)} ".encode()
        *lines, rest = data.split(b"\n")
        inside = self._inside.get(output.stream, False)
        shown = [b"" if inside and at == 0 else mark for at in range(len(lines))]
        whole = b"".join(m + line + b"\n" for m, line in zip(shown, lines, strict=True))
        if rest:
            whole += (b"" if inside and not lines else mark) + rest
        self._inside[output.stream] = bool(rest) or (inside and not lines)
        return whole

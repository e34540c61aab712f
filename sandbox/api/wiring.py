"""How a command of the Python API is connected, and text on its way in and out.

Owns the likeness to subprocess in `stdin`, `stdout`, `stderr` and their text.
"""

from __future__ import annotations

from sandbox.errors import UsageError
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from sandbox.runtime.streams import Input, Output

    class HasFileno(Protocol):
        """A file object."""

        def fileno(self) -> int:
            """The number of its descriptor."""

    Stream = int | HasFileno | None
    Listen = Callable[[Any], object] | None

# The same numbers as in subprocess, so that either module's names may be used.
PIPE = -1
STDOUT = -2
DEVNULL = -3


class Text(Record):
    """How captured bytes become text; `active` False leaves bytes."""

    active: bool
    encoding: str | None
    errors: str | None

    def codec(self) -> tuple[str, str]:
        """(encoding, errors)."""
        import locale

        return self.encoding or locale.getencoding(), self.errors or "strict"

    def encode(self, given: Any) -> bytes:
        """The bytes to feed."""
        if isinstance(given, str):
            if not self.active:
                raise UsageError("input must be bytes without text=True")
            return given.encode(*self.codec())
        return bytes(given)

    def decoder(self) -> Any:
        """What decodes pieces as they come, with newlines as in text files."""
        import codecs
        import io

        encoding, errors = self.codec()
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        return io.IncrementalNewlineDecoder(decoder, translate=True)

    def decode(self, captured: bytearray | None) -> Any:
        """What the caller gets, with newlines as in text files."""
        if captured is None:
            return None
        if not self.active:
            return bytes(captured)
        text = captured.decode(*self.codec())
        return text.replace("\r\n", "\n").replace("\r", "\n")


class Listener:
    """Hands each piece of output to the caller's function as it comes, in text mode as text.

    `failed`: that function raised an exception.
    """

    def __init__(self, listen: Callable[[Any], object], text: Text, kept: bytearray | None) -> None:
        self._listen = listen
        self.kept = kept
        self.failed = False
        self._decoder: Any = text.decoder() if text.active else None

    def __call__(self, data: bytes) -> None:
        """Take a piece; nothing more comes after b""."""
        if self.kept is not None:
            self.kept += data
        piece = self._decoder.decode(data, final=not data) if self._decoder else data
        if not piece:
            return
        try:
            self._listen(piece)
        except BaseException:
            self.failed = True
            raise


def descriptor(stream: int | HasFileno) -> int:
    """The number of a file object's descriptor, or the number itself."""
    return stream if isinstance(stream, int) else stream.fileno()


def input_of(stdin: Stream, given: bytes | str | None, text: Text) -> Input:
    """What runtime reads from: without `stdin` and `given` an empty input."""
    if given is not None:
        if stdin is not None:
            raise UsageError("input and stdin cannot be used together")
        return text.encode(given)
    # A pipe that nobody can write to is an empty input.
    if stdin is None or stdin in (PIPE, DEVNULL):
        return None
    return descriptor(stdin)


def check_outputs(stdout: Stream, stderr: Stream, *, capture: bool) -> tuple[Stream, Stream]:
    """(stdout, stderr) with `capture` applied. Raises UsageError for contradictions."""
    if capture:
        if stdout is not None or stderr is not None:
            raise UsageError("capture_output cannot be used together with stdout or stderr")
        stdout = stderr = PIPE
    if stdout == STDOUT:
        raise UsageError("STDOUT is for stderr only")
    return stdout, stderr


def output_of(stream: Stream, default: int, listen: Listen, text: Text) -> Output:
    """What runtime writes to: a buffer for PIPE, `default` for the caller's own stream."""
    if listen is not None:
        if stream not in (None, PIPE, DEVNULL):
            raise UsageError("a function and a file cannot both be given the same output")
        return Listener(listen, text, bytearray() if stream == PIPE else None)
    if stream is None:
        return default
    if stream == PIPE:
        return bytearray()
    return None if stream == DEVNULL else descriptor(stream)

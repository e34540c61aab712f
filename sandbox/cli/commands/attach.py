"""`sbx attach`: the caller's terminal, or its pipes, on a detached sandbox."""

from __future__ import annotations

from sandbox.cli import render
from sandbox.cli.commands.logs import Printer, refuse_foreground
from sandbox.errors import UsageError
from sandbox.policy.units import quote
from sandbox.runtime.attach import attach
from sandbox.runtime.registry import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.cli.parse import Parsed

_DETACH = "ctrl-p,ctrl-q"


def main(parsed: Parsed) -> int:
    """Connect to the command of SANDBOX, which runs in the background, until it ends.

    Its output is shown from now on. Input reaches it when it was started with -i, and so does the
    end of a pipe or a file; into a terminal (-t) that is a key. Without a terminal signals are
    passed on as well. The exit code is that of the sandbox.
    """
    keys = read_keys(parsed.text_or("--detach-keys", _DETACH))
    stdin = None if parsed.has("--no-stdin") else 0
    folder = find(parsed.words[0])
    try:
        refuse_foreground(folder)
        printer = Printer(escaped=False)
        left = attach(folder, stdin=stdin, keys=keys, show=printer.show)
        if left.exit_code is None and not left.signal:
            render.note("", f"detached from {folder.name}, which goes on")
    finally:
        folder.close()
    if left.exit_code is not None:
        return left.exit_code
    return 128 + left.signal if left.signal else 0


def read_keys(text: str) -> bytes:
    """The bytes of keys such as "ctrl-p,ctrl-q" or "a,b". Raises UsageError."""
    found = b""
    for word in text.split(","):
        control = word.removeprefix("ctrl-")
        char = control.upper()
        if word.startswith("ctrl-") and len(char) == 1 and "@" <= char <= "_":
            found += bytes((ord(char) - 64,))
        elif len(word) == 1 and word.isascii() and word.isprintable():
            found += word.encode()
        else:
            raise UsageError(
                f"--detach-keys: {quote(word)} is not a key",
                hint=f'use characters and ctrl-a to ctrl-z, joined by commas, as in "{_DETACH}"',
            )
    return found

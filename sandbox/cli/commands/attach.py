"""`sbx attach`: the caller's terminal, or its pipes, on a detached sandbox."""

from __future__ import annotations

import click

from sandbox.cli import render
from sandbox.cli.commands.logs import Printer, refuse_foreground
from sandbox.cli.groups import Command, debug, living
from sandbox.errors import UsageError
from sandbox.policy.units import quote

_DETACH = "ctrl-p,ctrl-q"


@click.command("attach", cls=Command)
@click.option("--no-stdin", is_flag=True, help="Do not connect standard input.")
@click.option(
    "--detach-keys",
    default=_DETACH,
    metavar="KEYS",
    help=f"What to type to leave it running; {_DETACH} when nothing is given.",
)
@living
@debug
def command(sandbox: str, no_stdin: bool, detach_keys: str) -> int:
    """Connect to the command of SANDBOX, which runs in the background, until it ends.

    Its output is shown from now on. Input reaches it when it was started with -i; the end of the
    input is not passed on, except as a key of a terminal (-t). Without a terminal signals are
    passed on as well. The exit code is that of the sandbox.
    """
    from sandbox.runtime.attach import attach
    from sandbox.runtime.registry import find

    keys = read_keys(detach_keys)
    folder = find(sandbox)
    try:
        refuse_foreground(folder)
        printer = Printer(escaped=False)
        left = attach(folder, stdin=None if no_stdin else 0, keys=keys, show=printer.show)
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

"""The entry point of `sbx`: find the command, run it, print its error once, return a code.

Commands with a form are read without click, which costs more to import than the rest together;
all other commands, all help and all usage errors go through `front`.
"""

from __future__ import annotations

import os
import sys
import time

from sandbox.cli import render
from sandbox.cli.forms import find_form
from sandbox.cli.parse import given_flags, parse
from sandbox.errors import SbxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_EXIT_INTERRUPT = 130
_EXIT_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit code; nothing is raised."""
    started = time.monotonic()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPT
    except BrokenPipeError:
        return _EXIT_BROKEN_PIPE
    except SbxError as error:
        return _fail(error, error, words, started)
    except Exception as error:  # the last line of defence: no traceback unless asked for
        return _fail(render.internal_error(error), error, words, started)
    finally:
        render.discard(sys.stdout, sys.stderr)


def _dispatch(words: list[str]) -> int:
    completing = "_SBX_COMPLETE" in os.environ
    form = find_form(words[0]) if words and not completing else None
    parsed = parse(words[1:], form) if form else None
    if form and parsed is not None:
        return form.load()(parsed)
    from sandbox.cli import front

    return front.complete() if completing else front.start(words)


def _fail(shown: SbxError, error: Exception, words: list[str], started: float) -> int:
    """Print an error as the command line asks for, and return its exit code."""
    form = find_form(words[0]) if words else None
    flags = given_flags(words[1:], form) if form else set(words)
    if "--debug" in flags:
        render.show_traceback(error, started)
    render.show_error(shown, json="--json" in flags)
    return shown.exit_code


if __name__ == "__main__":
    sys.exit(main())

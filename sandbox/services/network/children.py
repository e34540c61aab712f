"""Children of this process that carry networks and go on, or are ending: nobody waits for them."""

from __future__ import annotations

import os

_left_alone: set[int] = set()


def leave(pid: int) -> None:
    """Have a child reaped at some time after its end."""
    _left_alone.add(pid)


def reap() -> None:
    """Reap those that have ended."""
    for pid in tuple(_left_alone):
        try:
            if not os.waitpid(pid, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            pass
        _left_alone.discard(pid)

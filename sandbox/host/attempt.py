"""Try one thing in a short-lived process: the only way this room touches the kernel's limits.

Owns the child from start to reaped, its deadline, and the outcome as a value. What is tried is
in `trials` and `trials_doctor`, which load ctypes there and never in the caller.
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import signal
import sys
import time

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEADLINE_S = 5.0
_CHILD = (
    "import sys;sys.path.append(sys.argv.pop(1));"
    "from sandbox.host.trials import main;main(sys.argv[1:])"
)


class Outcome(Record):
    """What a trial found. `step` is "" on success, else what failed with `errno` and `text`.

    `value` is what the trial returns: None, int, str or a tuple of those.
    """

    value: Any
    step: str
    errno: int
    text: str

    @property
    def ok(self) -> bool:
        """Whether everything the trial does was possible."""
        return not self.step

    @property
    def reason(self) -> str:
        """ "" on success, else "step: the kernel's words"."""
        return f"{self.step}: {self.text or 'unknown error'}" if self.step else ""


def attempt(trial: str, *arguments: str, deadline_s: float = _DEADLINE_S) -> Outcome:
    """Run one trial of `sandbox.host.trials` in a fresh process that ends within `deadline_s`.

    The caller is neither forked nor changed, so that threads in it do no harm. Never raises
    for what happens in the child: that is the outcome.
    """
    python = sys.executable
    if not python:
        return Outcome(None, "trial", errno.ENOENT, "this program does not know its interpreter")
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    argv = [python, "-I", "-S", "-c", _CHILD, package, trial, *arguments]
    read_end, write_end = os.pipe()
    try:
        pid = os.posix_spawn(
            python,
            argv,
            os.environ,
            # The pipe comes first: it may itself be one of the descriptors that are opened here.
            file_actions=[
                (os.POSIX_SPAWN_DUP2, write_end, 1),
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            ],
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGALRM, signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE),
        )
    except OSError as error:
        os.close(read_end)
        # What C libraries start processes with; they go on to clone(2) only where it is ENOSYS.
        call = "clone3: " if error.errno == errno.EPERM else ""
        text = (error.strerror or "").lower()
        return Outcome(None, f"start {python}", error.errno or 0, call + text)
    finally:
        os.close(write_end)
    try:
        data = _read_until(read_end, time.monotonic() + deadline_s)
    finally:
        os.close(read_end)
        _end(pid)
    return _outcome(data, deadline_s)


def _outcome(data: bytes | None, deadline_s: float) -> Outcome:
    if data is None:
        return Outcome(None, "trial", errno.ETIMEDOUT, f"no answer within {deadline_s:g} s")
    try:
        value, step, number, text = marshal.loads(data)  # noqa: S302 - our own child wrote it
    except (ValueError, EOFError, TypeError):
        return Outcome(None, "trial", 0, "the process ended without an answer")
    return Outcome(value, step, number, text)


def _read_until(descriptor: int, deadline: float) -> bytes | None:
    """Everything up to end of file, None when that does not come by `deadline` (monotonic)."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            return None
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return data
        data += chunk


def _end(pid: int) -> None:
    """Kill what is left of a trial and reap it, without waiting for what cannot be killed."""
    try:
        os.kill(-pid, signal.SIGKILL)
        descriptor = os.pidfd_open(pid)
    except OSError:
        descriptor = -1
    try:
        if descriptor >= 0:
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            waiting.poll(1000)
            os.close(descriptor)
        os.waitpid(pid, os.WNOHANG)
    except OSError:
        pass  # somebody else reaped it: a caller that ignores SIGCHLD, or waits for all children

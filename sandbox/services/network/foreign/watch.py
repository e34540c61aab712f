"""The process between a sandbox and the program that carries its network: they end together.

Its descriptors: 0 and 1 the network namespace and the user namespace that owns it, which the
program opens by these numbers; 2 the socket to the driver; 3 the pidfd of the sandbox's init. The
driver may have gone long ago, so what the program says is read here.
"""

from __future__ import annotations

import os
import select

from sandbox.host.syscall import PR_SET_PDEATHSIG, prctl
from sandbox.services.network.foreign import DONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

_CHANNEL, _INIT = 2, 3
_WORDS = 1000
_NO_SYSLOG = "to syslog"  # pasta, of each line once more where nobody keeps a system log


def main(program: list[str]) -> None:
    """Run the program until the sandbox's end, and say when it ends before that."""
    os.closerange(_INIT + 1, 1 << 30)
    for own in (_CHANNEL, _INIT):
        os.set_inheritable(own, False)
    words, theirs = os.pipe()
    ours = os.getpid()
    pid = os.fork()
    if not pid:
        _become(program, theirs, ours)
    os.close(theirs)
    said = _watch(words, os.pidfd_open(pid))
    os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if said is not None:
        line = _one_line(said)
        how = f"with status {status}{': ' * bool(line)}{line}"
        if status < 0:  # no words of its own
            how = f"by signal {-status}"
        _tell(f"it ended {how}".encode())
    else:
        _tell(DONE)


def _become(program: list[str], words: int, parent: int) -> None:
    try:
        os.dup2(words, _CHANNEL)
        # pasta takes a signal that was ignored before it ignores it for a failure.
        for number in range(1, 32):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_DFL)
        prctl("PR_SET_PDEATHSIG", PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.execve(program[0], program, {})  # noqa: S606 - a list, no shell
    except OSError as error:
        os.write(_CHANNEL, (error.strerror or "").lower().encode())
    finally:
        os._exit(127)


def _watch(words: int, program: int) -> bytes | None:
    """Wait for either's end. The last that the program said, None when the sandbox ended first."""
    os.set_blocking(words, False)
    poller = select.poll()
    for fd in (_INIT, program, words):
        poller.register(fd, select.POLLIN)
    said = b""
    while True:
        ready = [fd for fd, _ in poller.poll()]
        if _INIT in ready:
            return None
        if words in ready:
            data = _read(words)
            said = (said + data)[-_WORDS:]
            if not data:
                poller.unregister(words)
        elif program in ready:
            return said


def _read(words: int) -> bytes:
    try:
        return os.read(words, 1 << 12)
    except BlockingIOError:
        return b""


def _one_line(said: bytes) -> str:
    lines = said.decode("ascii", "replace").split("\n")
    kept = ["".join(c for c in line if c.isprintable()).strip() for line in lines]
    return "; ".join(line for line in kept if line and not line.endswith(_NO_SYSLOG))


def _tell(message: bytes) -> None:
    try:
        os.write(_CHANNEL, message)
    except OSError:  # the driver has gone
        pass

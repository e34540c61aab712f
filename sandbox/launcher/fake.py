"""A launcher that only acts: for tests of everything around it, without any kernel feature.

`program(steps)` is given to `spawn.launch` in place of the sealed launcher. It speaks the same
protocol on the same descriptors, and plays its steps in order:

    ["started"] ["held"] ["running"] ["tty"]        events
    ["warning", op, errno, text] ["error", stage, op, errno, text]
    ["write", fd, text] ["flood", fd, bytes]           output of the payload
    ["echo"]                                           standard input → standard output, to its end
    ["close", fd]
    ["order"] ["order", N]                             wait for an order (and check it); 255 ends it
    ["ignore", seconds]                                take orders without obeying, except 255
    ["sleep", seconds] ["raw", hex]                    raw: bytes on the channel as they are
    ["exited", status] ["done", status]                raw wait statuses
    ["exit", code] ["die", signal]                     the launcher's own end
"""

from __future__ import annotations

import os
import sys

from sandbox.launcher import events
from sandbox.launcher.events import Event
from sandbox.launcher.spawn import FD_CHANNEL, Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Sequence

    Step = Sequence[str | int | float]


def program(steps: Sequence[Step]) -> Program:
    """The Program that plays `steps`; give it to `spawn.launch`."""
    import json

    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = (
        f"import sys; sys.path.insert(0, {root!r})\nfrom sandbox.launcher.fake import play\nplay()"
    )
    return Program(sys.executable, ("init", "-I", "-c", code, json.dumps(steps)))


def success(output: str = "", code: int = 0) -> list[Step]:
    """The steps of a payload that writes `output` and exits with `code`."""
    return [
        ["started"],
        ["running"],
        ["write", 1, output],
        ["exited", code << 8],
        ["done", code << 8],
        ["exit", code],
    ]


def play() -> None:
    """Run as the launcher: the steps are the last argument."""
    import _socket
    import json

    channel = _socket.socket(fileno=FD_CHANNEL)
    actor = _Actor(channel)
    for name, *arguments in json.loads(sys.argv[-1]):
        getattr(actor, name)(*arguments)
    os._exit(0)


class _Actor:
    """One method a step."""

    def __init__(self, channel: _socket.socket) -> None:
        self._channel = channel

    def _send(self, event: Event) -> None:
        self._channel.send(events.encode(event))

    def started(self) -> None:
        self._send(Event(events.STARTED, stage=events.STAGE_SETUP, pid=os.getpid()))

    def held(self) -> None:
        self._send(Event(events.HELD, stage=events.STAGE_SETUP, op=1))

    def running(self) -> None:
        self._send(Event(events.RUNNING, stage=events.STAGE_RUN, pid=2))

    def warning(self, op: int, errno: int, text: str) -> None:
        self._send(Event(events.WARNING, stage=events.STAGE_SETUP, op=op, errno=errno, text=text))

    def error(self, stage: int, op: int, errno: int, text: str) -> None:
        self._send(Event(events.ERROR, stage=stage, op=op, errno=errno, text=text))

    def exited(self, status: int) -> None:
        self._send(
            Event(
                events.EXITED,
                stage=events.STAGE_END,
                pid=2,
                status=status,
                utime_us=1000,
                stime_us=2000,
                maxrss_kib=512,
            )
        )

    def done(self, status: int) -> None:
        self._send(
            Event(
                events.DONE,
                stage=events.STAGE_END,
                pid=9,
                status=status,
                utime_us=3000,
                stime_us=4000,
                maxrss_kib=1024,
            )
        )

    def tty(self) -> None:
        """Send a pty master and take its other side as the standard streams."""
        import _socket
        import array

        master, slave = os.openpty()
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [master]))
        self._channel.sendmsg([events.encode(Event(events.TTY))], [rights])
        os.close(master)
        for fd in (0, 1, 2):
            os.dup2(slave, fd)
        os.close(slave)

    def write(self, fd: int, text: str) -> None:
        os.write(fd, text.encode())

    def flood(self, fd: int, count: int) -> None:
        chunk = memoryview(b"x" * 65536)
        while count > 0:
            count -= os.write(fd, chunk[:count])

    def echo(self) -> None:
        while data := os.read(0, 65536):
            os.write(1, data)

    def close(self, fd: int) -> None:
        os.close(fd)

    def order(self, expected: int | None = None) -> None:
        number = self._take(None)
        if expected is not None and number != expected:
            os._exit(99)

    def ignore(self, seconds: float) -> None:
        import time

        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._take(left)

    def _take(self, timeout_s: float | None) -> int:
        import select

        if not select.select([self._channel], [], [], timeout_s)[0]:
            return 0
        data = self._channel.recv(1)
        if data in (b"", b"\xff"):
            self.done(9)
            os._exit(137)
        return data[0]

    def sleep(self, seconds: float) -> None:
        import time

        time.sleep(seconds)

    def raw(self, data: str) -> None:
        self._channel.send(bytes.fromhex(data))

    def exit(self, code: int) -> None:
        os._exit(code)

    def die(self, number: int) -> None:
        import signal

        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pause()

"""Commands on a terminal of their own, as a person at a keyboard starts them."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Terminal:
    """A child on a terminal of its own, whose master end the test holds."""

    pid: int
    master: int
    seen: bytes = b""
    status: int | None = None

    def wait_for(self, text: bytes, timeout_s: float = 20) -> bytes:
        """Read until `text` is there."""
        end = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            self._read(0.2)
        return self.seen

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self.master], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.seen += data
        return bool(data)

    def end(self, timeout_s: float = 20) -> int:
        """Read to the end; return the exit code."""
        end = time.monotonic() + timeout_s
        while self._read(0.2):
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.status = status
                while select.select([self.master], [], [], 0.1)[0] and self._read(0):
                    pass
                break
            assert time.monotonic() < end, self.seen
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        return os.waitstatus_to_exitcode(self.status)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size, as a terminal emulator does."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@dataclass
class Terminals:
    """The terminals of one test."""

    opened: list[Terminal] = field(default_factory=list)

    def start(self, argv: list[str], env: dict[str, str]) -> Terminal:
        """Start a program on a terminal of 30 rows and 100 columns."""
        pid, master = pty.fork()
        if pid == 0:
            os.execve(argv[0], argv, env)
        found = Terminal(pid, master)
        found.resize(30, 100)
        self.opened.append(found)
        return found

    @classmethod
    @contextmanager
    def open(cls) -> Iterator["Terminals"]:
        """All are closed, and their programs dead, at the end."""
        found = cls()
        try:
            yield found
        finally:
            for terminal in found.opened:
                os.close(terminal.master)
                if terminal.status is None:
                    os.kill(terminal.pid, signal.SIGKILL)
                    os.waitpid(terminal.pid, 0)

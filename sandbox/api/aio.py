"""The asyncio twins: `arun`, `apopen` with AsyncPopen, on the same turns as `run` and Popen."""

from __future__ import annotations

import asyncio
import weakref

from sandbox.api.call import returncode_of
from sandbox.api.life import Ends
from sandbox.api.loop import Driven, drive_async
from sandbox.api.popen import begin_session
from sandbox.api.run import begin
from sandbox.api.wishes import words_of
from sandbox.errors import UsageError
from sandbox.runtime.orders import Orders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import IO, Any, Self, Unpack

    from sandbox.api.call import Result, RunKeywords
    from sandbox.api.life import Connecting, OpenKeywords
    from sandbox.api.popen import Begin
    from sandbox.api.wiring import Text
    from sandbox.api.wishes import PolicyRef, Word
    from sandbox.runtime.report import Report


_CHUNK_BYTES = 1 << 16


async def arun(
    argv: Sequence[Word],
    *,
    rootfs: Word,
    policy: PolicyRef = "strict",
    name: str = "",
    pass_fds: Iterable[int] = (),
    **keywords: Unpack[RunKeywords],
) -> Result:
    """As `run`, in an event loop. Cancelling it kills the sandbox, and CancelledError comes out
    when nothing of it lives any more. `on_stdout`, `on_stderr` are called in the loop."""
    call, turns = begin("sandbox.arun", argv, rootfs, policy, name, pass_fds, keywords)
    return call.finish(await drive_async(turns))


async def apopen(
    argv: Sequence[Word],
    *,
    rootfs: Word,
    policy: PolicyRef = "strict",
    name: str = "",
    pass_fds: Iterable[int] = (),
    **keywords: Unpack[OpenKeywords],
) -> AsyncPopen:
    """Start `argv` in a sandbox of its own; return once it runs. Keywords are those of Popen.

    Raises SbxError when it could not be started; cancelling kills it.
    """
    words = words_of(argv)
    connecting, start = begin_session(
        "sandbox.apopen", words, rootfs, policy, name, pass_fds, keywords
    )
    return await AsyncPopen.begun(words, connecting, start)


class AsyncPopen:
    """A command that goes on, like asyncio.subprocess.Process: made by `apopen`.

    `args`, `pid`, `report`, `returncode` as with Popen; `stdin` is an asyncio.StreamWriter,
    `stdout` and `stderr` are StreamReaders (`async for line in …`, `read(n)`), where PIPE was
    asked for; with `text`, `encoding` or `errors` a TextWriter and TextReaders.

    Cancelling `wait` or `communicate` leaves the command alone; leaving `async with` by an
    exception, or the end of the loop, kills all that is in the sandbox.
    """

    def __init__(self, words: tuple[str, ...], ends: Ends, orders: Orders) -> None:
        self.args = words
        self.pid = 0
        self.stdin: Any = None
        self.stdout: Any = None
        self.stderr: Any = None
        self._ends = ends
        self._orders = orders
        self._task: asyncio.Task[Report] | None = None
        self._transports: list[asyncio.BaseTransport] = []

    @classmethod
    async def begun(cls, words: tuple[str, ...], connecting: Connecting, begin: Begin) -> Self:
        """A command whose turns come from elsewhere."""
        ends, orders = Ends(**connecting), Orders()
        made = cls(words, ends, orders)
        driven = Driven(begin(ends, orders), ends.started)
        try:
            made.pid = await driven.to_running()
            made._task = asyncio.get_running_loop().create_task(_rest(driven, ends, orders))
            weakref.finalize(made, orders.kill).atexit = False
            await made._connect()
        except BaseException:
            await made._end()
            orders.close()
            ends.close()
            raise
        return made

    async def _connect(self) -> None:
        loop, ends, text = asyncio.get_running_loop(), self._ends, self._ends.text
        if 0 in ends.ours:
            file: Any = open(ends.take(0), "wb", 0)  # noqa: SIM115 (a pipe, kept)
            transport, kept = await loop.connect_write_pipe(_protocol, file)
            self._transports.append(transport)
            writer = asyncio.StreamWriter(transport, kept, None, loop)
            self.stdin = TextWriter(writer, text) if text.active else writer
        for number, name in ((1, "stdout"), (2, "stderr")):
            if number in ends.ours:
                file = open(ends.take(number), "rb", 0)  # noqa: SIM115
                reader = asyncio.StreamReader()
                protocol = asyncio.StreamReaderProtocol(reader)
                self._transports.append(await _read_pipe(protocol, file))
                setattr(self, name, TextReader(reader, text) if text.active else reader)

    @property
    def report(self) -> Report | None:
        """The report of the run once it has ended. Raises what went wrong on our side."""
        return self._task.result() if self._task and self._task.done() else None

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the number of the signal, or None while it runs."""
        report = self.report
        return None if report is None else returncode_of(report)

    async def wait(self) -> int:
        """Wait for the end and return the exit code."""
        if self._task is None:
            raise UsageError("this command was not started")
        return returncode_of(await asyncio.shield(self._task))

    async def communicate(self, input: bytes | str | None = None) -> tuple[Any, Any]:
        """Feed `input`, read both outputs to their end, wait; return (stdout, stderr)."""
        if input is not None and self.stdin is None:
            raise UsageError("input needs stdin=PIPE")
        data = b"" if input is None else self._ends.text.encode(input)
        found = await asyncio.gather(self._feed(data), _read(self.stdout), _read(self.stderr))
        await self.wait()
        return found[1], found[2]

    async def _feed(self, data: bytes) -> None:
        if self.stdin is None:
            return
        try:
            self.stdin.write(data)
            await self.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.stdin.close()

    def send_signal(self, number: int) -> None:
        """Send a signal to the command; nothing happens when it has ended."""
        if not 0 < number <= 64:
            raise UsageError(f"{number} is not the number of a signal")
        self._orders.post(int(number))

    def terminate(self) -> None:
        """Ask the command to end (SIGTERM)."""
        self.send_signal(15)

    def kill(self) -> None:
        """Kill everything in the sandbox."""
        self._orders.kill()

    async def _end(self) -> None:
        self._orders.kill()
        if self._task:
            await asyncio.wait([self._task])
        for transport in self._transports:
            transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """Close the input and wait; after an exception kill first."""
        try:
            if kind is None:
                if self.stdin is not None:
                    self.stdin.close()
                await self.wait()
        finally:
            await self._end()


async def _read_pipe(
    protocol: asyncio.StreamReaderProtocol, file: IO[bytes]
) -> asyncio.BaseTransport:
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
    return transport


def _protocol() -> asyncio.StreamReaderProtocol:
    """Of a pipe that is only written to: it keeps writers back while the pipe is full."""
    return asyncio.StreamReaderProtocol(asyncio.StreamReader())


async def _rest(driven: Driven, ends: Ends, orders: Orders) -> Report:
    try:
        report: Report = await driven.to_end()
        ends.flush()
        return report
    finally:
        orders.close()


async def _read(reader: Any) -> Any:
    return None if reader is None else await reader.read()


class TextReader:
    """The text of a StreamReader, with newlines as in text files."""

    def __init__(self, reader: asyncio.StreamReader, text: Text) -> None:
        self._reader = reader
        self._decoder = text.decoder()
        self._waiting = ""
        self._ended = False

    async def _more(self) -> None:
        """Decode what comes next."""
        data = await self._reader.read(_CHUNK_BYTES)
        self._ended = not data
        self._waiting += self._decoder.decode(data, final=not data)

    def _take(self, count: int) -> str:
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def read(self, n: int = -1) -> str:
        """At most `n` characters as soon as there are some, all up to the end for -1; "" after."""
        while not self._ended and (n < 0 or (n and not self._waiting)):
            await self._more()
        return self._take(len(self._waiting) if n < 0 else n)

    async def readline(self) -> str:
        """A line with its newline, which the last one may lack; "" after it."""
        at = 0
        while not self._ended and "\n" not in self._waiting[at:]:
            at = len(self._waiting)
            await self._more()
        end = self._waiting.find("\n")
        return self._take(end + 1 if end >= 0 else len(self._waiting))

    def at_eof(self) -> bool:
        """Whether nothing more comes."""
        return self._ended and not self._waiting

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line


class TextWriter:
    """A StreamWriter that takes text."""

    def __init__(self, writer: asyncio.StreamWriter, text: Text) -> None:
        self._writer = writer
        self._text = text
        self.drain = writer.drain
        self.close = writer.close
        self.is_closing = writer.is_closing
        self.wait_closed = writer.wait_closed

    def write(self, data: str | bytes) -> None:
        """Hand text over; `await drain()` waits until it is taken."""
        self._writer.write(self._text.encode(data))

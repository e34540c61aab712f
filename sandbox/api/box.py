"""`sandbox.Sandbox` and AsyncSandbox: many commands in one kept sandbox."""

from __future__ import annotations

import os
import signal

from sandbox.api.held import Held
from sandbox.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self, TypeVar, Unpack

    from sandbox.api.aio import AsyncPopen
    from sandbox.api.call import Result
    from sandbox.api.held import ExecKeywords, ExecOpenKeywords
    from sandbox.api.popen import Popen
    from sandbox.api.wishes import PolicyRef, Wishes, Word
    from sandbox.runtime.logs import Output
    from sandbox.runtime.usage import Usage

    T = TypeVar("T")

MAX_FILE_BYTES = 64 << 20


class _Known:
    """What can be said of a kept sandbox without asking it."""

    _held: Held

    def __repr__(self) -> str:
        known = self._held.known
        return f"<{type(self).__name__}: {known or 'not running'}>"

    @property
    def id(self) -> str:
        """Its id, as `sbx ps` shows it."""
        return self._held.folder.id

    @property
    def name(self) -> str:
        """Its name; `sbx exec`, `sbx inspect` and the others take it."""
        return self._held.folder.name

    def report(self) -> dict[str, object]:
        """What `sbx inspect` shows of it: id, name, state, exit_code, times, ports, and more."""
        from sandbox.runtime.inspect import details

        return details(self._held.folder)

    def logs(self) -> Iterator[Output]:
        """The output of its own first command, each piece with `stream`, `at_s` and `data`.

        A Sandbox that was made here is idle and has none: its commands give theirs to the caller.
        """
        from sandbox.runtime.logs import LogReader

        reader = LogReader(self._held.folder)
        try:
            yield from reader.read()
        finally:
            reader.close()


class Sandbox(_Known):
    """One sandbox for many commands, which share its files, its processes and its limits.

    Keywords are those of `sandbox.run` that are not of a single command; `timeout` bounds the
    whole sandbox. `with` (or `start`) starts it, and nothing of it outlives `with`, this object
    or this process. Safe in threads. Raises SbxError as `run` does.

        with sandbox.Sandbox(rootfs="./rootfs", policy="ci") as box:
            box.run(["make"], check=True)
    """

    def __init__(
        self,
        *,
        rootfs: Word,
        policy: PolicyRef = "strict",
        name: str = "",
        **wishes: Unpack[Wishes],
    ) -> None:
        self._held = Held("sandbox.Sandbox", rootfs, policy, name, wishes)

    @classmethod
    def find(cls, word: str) -> Self:
        """The living sandbox with this name, id, or beginning of an id, whoever started it.

        It goes on after `close`; only `kill` ends it. Raises StateError.
        """
        made = cls.__new__(cls)
        made._held = Held.found(word)
        return made

    def start(self) -> Self:
        """Start it. Raises SbxError."""
        from sandbox.runtime.supervise import drive

        drive(self._held.start(self))
        return self

    def run(self, argv: Sequence[Word], **keywords: Unpack[ExecKeywords]) -> Result:
        """Run a command in it to its end, as `sandbox.run`: with the same connections, `env`,
        `cwd`, `user`, `timeout` and `pass_fds`. What it leaves running ends with the sandbox."""
        from sandbox.runtime.supervise import drive

        call, turns = self._held.call(argv, keywords)
        return call.finish(drive(turns))

    def exec(self, argv: Sequence[Word], **keywords: Unpack[ExecKeywords]) -> Result:
        """The same as `run`, by the name that `sbx exec` has."""
        return self.run(argv, **keywords)

    def popen(
        self, argv: Sequence[Word], *, bufsize: int = -1, **keywords: Unpack[ExecOpenKeywords]
    ) -> Popen:
        """Start a command in it that goes on, as `sandbox.Popen`."""
        from sandbox.api.popen import Popen

        words, connecting, begin = self._held.opened(argv, keywords)
        return Popen.begun(words, bufsize, connecting, begin)

    def read_file(self, path: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The content of a file in it, of `max_bytes` at most; nothing inside is run for that.

        Raises SandboxFileError: the OSError that fits.
        """
        from sandbox.runtime import files

        return files.read_file(self._held.folder, path, max_bytes)

    def write_file(
        self, path: str, data: bytes | str, *, mode: int = 0o644, user: int | str | None = None
    ) -> None:
        """Make or replace a file in it, whole or not at all; text is written as UTF-8."""
        from sandbox.runtime import files

        content = data.encode() if isinstance(data, str) else bytes(data)
        owner = None if user is None else str(user)
        files.write_file(self._held.folder, path, content, mode, owner)

    def copy_in(self, source: Word, path: str) -> list[str]:
        """Copy a file or a folder of the host into it; returns what was left out, and why."""
        from sandbox.runtime import files

        return files.copy_in(self._held.folder, os.fspath(source), path)

    def copy_out(self, path: str, destination: Word) -> list[str]:
        """Copy a file or a folder of it to the host, bounded, links as links; returns what was
        left out, and why."""
        from sandbox.runtime import files

        return files.copy_out(self._held.folder, path, os.fspath(destination))

    def pause(self) -> None:
        """Stop all its processes until `unpause`. Raises StateError."""
        from sandbox.runtime import control

        control.pause(self._held.folder)

    def unpause(self) -> None:
        """Let its processes go on. Raises StateError."""
        from sandbox.runtime import control

        control.unpause(self._held.folder)

    def stats(self) -> Usage:
        """What it uses now: memory, CPU time, processes, storage, network. Raises StateError."""
        from sandbox.runtime.usage import usage

        found = usage(self._held.folder)
        if found is None:
            raise StateError(f"sandbox {self.name} is not running")
        return found

    def kill(self) -> None:
        """Kill everything in it and wait for its end. Raises StateError."""
        from sandbox.runtime import control

        control.send_signal(self._held.folder, signal.SIGKILL)

    def close(self) -> None:
        """End it, if it was started here; forget it otherwise. May be called again."""
        self._held.close()

    def __enter__(self) -> Self:
        return self.start() if self._held.is_new else self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSandbox(_Known):
    """Sandbox for asyncio: `async with`, and the same words to await. Cancelling a command kills
    that command with all it started; leaving `async with` ends the sandbox."""

    def __init__(
        self,
        *,
        rootfs: Word,
        policy: PolicyRef = "strict",
        name: str = "",
        **wishes: Unpack[Wishes],
    ) -> None:
        self._held = Held("sandbox.AsyncSandbox", rootfs, policy, name, wishes)

    @classmethod
    def find(cls, word: str) -> Self:
        """As Sandbox.find."""
        made = cls.__new__(cls)
        made._held = Held.found(word)
        return made

    async def start(self) -> Self:
        """Start it. Raises SbxError."""
        from sandbox.api.loop import drive_async

        await drive_async(self._held.start(self))
        return self

    async def run(self, argv: Sequence[Word], **keywords: Unpack[ExecKeywords]) -> Result:
        """As Sandbox.run."""
        from sandbox.api.loop import drive_async

        call, turns = self._held.call(argv, keywords)
        return call.finish(await drive_async(turns))

    async def exec(self, argv: Sequence[Word], **keywords: Unpack[ExecKeywords]) -> Result:
        """The same as `run`."""
        return await self.run(argv, **keywords)

    async def popen(self, argv: Sequence[Word], **keywords: Unpack[ExecOpenKeywords]) -> AsyncPopen:
        """Start a command in it that goes on, as `sandbox.apopen`."""
        from sandbox.api.aio import AsyncPopen

        return await AsyncPopen.begun(*self._held.opened(argv, keywords))

    async def read_file(self, path: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """As Sandbox.read_file."""
        return await self._blocking(lambda box: box.read_file(path, max_bytes=max_bytes))

    async def write_file(
        self, path: str, data: bytes | str, *, mode: int = 0o644, user: int | str | None = None
    ) -> None:
        """As Sandbox.write_file."""
        await self._blocking(lambda box: box.write_file(path, data, mode=mode, user=user))

    async def copy_in(self, source: Word, path: str) -> list[str]:
        """As Sandbox.copy_in."""
        return await self._blocking(lambda box: box.copy_in(source, path))

    async def copy_out(self, path: str, destination: Word) -> list[str]:
        """As Sandbox.copy_out."""
        return await self._blocking(lambda box: box.copy_out(path, destination))

    async def pause(self) -> None:
        """As Sandbox.pause."""
        await self._blocking(lambda box: box.pause())

    async def unpause(self) -> None:
        """As Sandbox.unpause."""
        await self._blocking(lambda box: box.unpause())

    async def stats(self) -> Usage:
        """As Sandbox.stats."""
        return await self._blocking(lambda box: box.stats())

    async def kill(self) -> None:
        """As Sandbox.kill."""
        await self._blocking(lambda box: box.kill())

    async def close(self) -> None:
        """As Sandbox.close; cancelling it waits for the end all the same."""
        await self._blocking(lambda box: box.close())

    async def _blocking(self, work: Callable[[Sandbox], T]) -> T:
        """What has no turns: done by a Sandbox that holds the same, in another thread."""
        from sandbox.api.loop import in_thread

        box = Sandbox.__new__(Sandbox)
        box._held = self._held
        return await in_thread(lambda: work(box))

    async def __aenter__(self) -> Self:
        return await self.start() if self._held.is_new else self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

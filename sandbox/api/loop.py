"""Turns taken by an asyncio event loop, and what that means for cancelling."""

from __future__ import annotations

import asyncio
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from sandbox.runtime.supervise import Supervisor, Turns

    T = TypeVar("T")


async def ready_for(watched: Supervisor) -> dict[int, int]:
    """What `watched.wait()` would return, without holding up the loop."""
    patience_s = watched.patience_s()
    if patience_s == 0:
        await asyncio.sleep(0)
        return watched.wait(0.0)
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    wanted = watched.wanted()
    reading = [fd for fd, mask in wanted.items() if mask & select.POLLIN]
    writing = [fd for fd, mask in wanted.items() if mask & select.POLLOUT]
    broken = [fd for fd, mask in wanted.items() if not mask]
    # A loop knows no wish for errors alone.
    errors = select.epoll() if broken else None
    timer = loop.call_later(patience_s, wake) if patience_s is not None else None
    try:
        if errors:
            for fd in broken:
                errors.register(fd, 0)
            reading.append(errors.fileno())
        for fd in reading:
            loop.add_reader(fd, wake)
        for fd in writing:
            loop.add_writer(fd, wake)
        await woken
    finally:
        # Before the next turn may close any of them.
        for fd in reading:
            loop.remove_reader(fd)
        for fd in writing:
            loop.remove_writer(fd)
        if timer:
            timer.cancel()
        if errors:
            errors.close()
    return watched.wait(0.0)


def _send(turns: Turns[Any], ready: dict[int, int] | None) -> tuple[bool, Any]:
    """(whether that was the last turn, whom to wait for or the result)."""
    try:
        return False, turns.send(ready)
    except StopIteration as end:
        return True, end.value


async def _finished(future: asyncio.Future[Any]) -> bool:
    """Wait for what cannot be stopped; return whether we were cancelled meanwhile."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])  # which leaves it alone when it is cancelled itself
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


async def in_thread(work: Callable[[], T]) -> T:
    """Do what blocks elsewhere; cancelled, it is waited for all the same."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled = await _finished(future)
    result = future.result()
    if cancelled:
        raise asyncio.CancelledError
    return result


class Driven:
    """Turns on their way through the loop. Cancelling kills first: CancelledError comes out when
    nothing of the sandbox lives any more."""

    def __init__(self, turns: Turns[Any], begun: Callable[[], None] | None = None) -> None:
        self._turns = turns
        self._begun = begun
        self._watched: Supervisor | None = None
        self._ready: dict[int, int] | None = None
        self._cancelled = False
        self.over = False
        self.result: Any = None

    async def to_running(self) -> int:
        """Until the command runs, or has ended; return the pid of the sandbox's init."""
        await self._go(lambda watched: watched.running)
        return self._watched.pid if self._watched else 0

    async def to_end(self) -> Any:
        """To the end; return what the turns come to."""
        await self._go(lambda _: False)
        return self.result

    async def _go(self, enough: Callable[[Supervisor], bool]) -> None:
        try:
            while not self.over:
                await self._turn()
                if self.over or self._watched is None:
                    continue
                if enough(self._watched) and not self._cancelled:
                    return
                await self._wait(self._watched)
        except BaseException:
            self._turns.close()
            if self._cancelled:
                raise asyncio.CancelledError from None
            raise
        if self._cancelled:
            raise asyncio.CancelledError

    async def _wait(self, watched: Supervisor) -> None:
        self._ready = {}
        try:
            self._ready = await ready_for(watched)
        except asyncio.CancelledError:
            self._cancelled = True
            watched.kill()

    async def _turn(self) -> None:
        ready, self._ready = self._ready, None
        self.over, found = _send(self._turns, ready)
        while not self.over and found is None:
            # What comes next takes long by itself.
            future = asyncio.get_running_loop().run_in_executor(None, _send, self._turns, None)
            self._cancelled |= await _finished(future)
            self.over, found = future.result()
        if self._begun:
            self._begun()
            self._begun = None
        if self.over:
            self.result = found
            return
        self._watched = found
        if self._cancelled:
            found.kill()


async def drive_async(turns: Turns[T]) -> T:
    """Take all turns; cancelling this kills the sandbox before it ends."""
    result: T = await Driven(turns).to_end()
    return result

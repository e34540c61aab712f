"""One epoll and a heap of timers, for a single thread.

Owns no descriptor that it watches: who closes one calls `forget` first. A callback may be called
once for nothing, when its descriptor's number was closed and used again in the same round, so
everything watched is non-blocking.
"""

from __future__ import annotations

import select
from collections import deque
from heapq import heapify, heappop, heappush
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS_A_ROUND = 256
CANCELLED_KEPT = 256


class Timer:
    """A call that will be made once; `cancel` prevents it."""

    __slots__ = ("_call", "_loop")

    def __init__(self, loop: Loop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the call and what it refers to. Harmless when it was made already."""
        if self._call is not None:
            self._call = None
            self._loop.cancelled()

    def waits(self) -> bool:
        """Whether the call is still to be made."""
        return self._call is not None

    def fire(self) -> None:
        """Make the call, unless it was made or cancelled."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Loop:
    """Calls back when a descriptor is ready or a time has come, until `stop`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._serial = 0
        self._cancelled = 0
        self._now = monotonic()
        self._going = False

    def watch(self, fd: int, events: int, ready: Callable[[int], None]) -> None:
        """Call `ready` with the epoll events of `fd` whenever one of `events` holds.

        Raises OSError: the kernel counts the watches of a user's processes together (epoll(7),
        max_user_watches), so another sandbox can have used them up.
        """
        self._epoll.register(fd, events)
        self._ready[fd] = ready

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of a watched descriptor."""
        self._epoll.modify(fd, events)

    def take_over(self, fd: int, events: int, ready: Callable[[int], None]) -> bool:
        """Watch `fd`; where it was watched already for these events (True) only call another."""
        known = fd in self._ready
        if known:
            self._ready[fd] = ready
        else:
            self.watch(fd, events, ready)
        return known

    def forget(self, fd: int) -> None:
        """Watch no longer; to be called before `fd` is closed. Harmless for an unwatched one."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Make a call in `seconds`, not before."""
        timer = Timer(self, call)
        self._serial += 1
        heappush(self._timers, (monotonic() + seconds, self._serial, timer))
        return timer

    def cancelled(self) -> None:
        """A timer was cancelled: who sets and cancels many must not have them all kept."""
        self._cancelled += 1
        if self._cancelled > CANCELLED_KEPT and self._cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].waits()]
            heapify(self._timers)
            self._cancelled = 0

    def soon(self, call: Callable[[], None]) -> None:
        """Make a call in the next round, after the descriptors that are ready by then."""
        self._soon.append(call)

    def now(self) -> float:
        """The monotonic time at which this round began, in seconds."""
        return self._now

    def run(self) -> None:
        """Serve until `stop`. An exception of a callback ends it."""
        self._going = True
        ready = self._ready
        while self._going:
            events = self._epoll.poll(self._pause(), EVENTS_A_ROUND)
            self._now = monotonic()
            for fd, mask in events:
                call = ready.get(fd)
                if call is not None:
                    call(mask)
            for _ in range(len(self._soon)):
                self._soon.popleft()()
            while self._timers and self._timers[0][0] <= self._now:
                heappop(self._timers)[2].fire()

    def stop(self) -> None:
        """End `run` after this round."""
        self._going = False

    def close(self) -> None:
        """Give up the epoll."""
        self._epoll.close()

    def _pause(self) -> float:
        if self._soon:
            return 0
        if not self._timers:
            return -1
        return max(0, self._timers[0][0] - monotonic())

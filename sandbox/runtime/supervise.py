"""From a started launcher to a dead sandbox: one generator, no threads.

Owns the clock, the orders to the launcher, the relay of signals and the reaping. When its turns
end, are closed or raise, nothing of the sandbox lives any more. Who waits between two turns, and
how, is the driver's: `drive` here polls, that of asyncio asks its loop.
"""

from __future__ import annotations

import _socket
import os
import select
import time

from sandbox.launcher import events
from sandbox.record import Record
from sandbox.runtime.signals import FATAL, SignalInbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Generator, Iterable
    from typing import TypeVar

    from sandbox.launcher.events import Event
    from sandbox.launcher.spawn import Launched
    from sandbox.runtime.orders import Orders
    from sandbox.runtime.streams import Streams
    from sandbox.runtime.terminal import Terminal
    from sandbox.services.network import Network

    T = TypeVar("T")
    # Yields whom to wait for and is sent what poll(2) would have found; None says that the next
    # turn may take long by itself.
    Turns = Generator["Supervisor | None", dict[int, int] | None, T]
else:  # the module `signal` would import enum
    import _signal as signal

KILL_WAIT_S = 5.0  # from the order to kill everything to the kill of the launcher itself
DRAIN_S = 2.0  # for output that is still under way after the sandbox was killed
INTERRUPTS_THAT_KILL = 3

_DESCRIPTORS = 10  # that come with one event: MAX_HELD, helpers/launcher/launch.h
_LIVING, _TERMINATING, _KILLING, _FORCED = range(4)


class Outcome(Record):
    """What happened: the events as they came, and what was done from outside.

    `status` is the launcher's raw wait status, None when somebody else reaped it. `wall_s`
    runs from the start of the launcher to its end. `full`: a file system in memory that had no
    room left at the payload's end, "" for none.
    """

    started: Event | None
    running: Event | None
    exited: Event | None
    done: Event | None
    errors: tuple[Event, ...]
    warnings: tuple[Event, ...]
    status: int | None
    timed_out: bool
    killed: bool
    wall_s: float
    full: str = ""


def drive(turns: Turns[T]) -> T:
    """Take all turns in this thread; return what they come to. Any exception ends them first."""
    ready: dict[int, int] | None = None
    try:
        while True:
            watched = turns.send(ready)
            ready = watched.wait() if watched else None
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        turns.close()


class Supervisor:
    """Watches one launcher. `timeout_s` 0 is no limit; `grace_s` lies between TERM and KILL.

    `prepare` gets the pid of the sandbox's init while the plan holds it, and the descriptors that
    were opened inside, to be closed by it: all namespaces are there, and the payload is not. An
    exception of it ends the sandbox.
    With `detach` its task ends as soon as the payload runs. `orders` come from other threads.
    `beside`: what carries the network, heard while the sandbox lives.
    """

    def __init__(
        self,
        launched: Launched,
        streams: Streams,
        inbox: SignalInbox,
        *,
        timeout_s: float = 0.0,
        grace_s: float = 0.0,
        terminal: Terminal | None = None,
        notice: Callable[[Event], None] | None = None,
        prepare: Callable[[int, tuple[int, ...]], None] | None = None,
        detach: bool = False,
        orders: Orders | None = None,
        beside: Network | None = None,
    ) -> None:
        self._launched = launched
        self._streams = streams
        self._inbox = inbox
        self._grace_s = grace_s
        self._terminal = terminal
        self._notice = notice
        self._prepare = prepare
        self._held: tuple[int, ...] = ()
        self._early: list[int] = []
        self._detach = detach
        self._orders = orders
        self._beside = beside
        self._began = time.monotonic()
        self._deadline = self._began + timeout_s if timeout_s else None
        self._stage = _LIVING
        self._timed_out = False
        self._interrupts = 0
        self._channel_open = True
        self._dead = False
        self._ended = 0.0
        self._status: int | None = None
        self._last: dict[int, Event] = {}
        self._errors: list[Event] = []
        self._warnings: list[Event] = []

    def turns(self) -> Turns[Outcome]:
        """Until the sandbox is dead and its output delivered. Kills it on any exception."""
        if self._terminal:
            self._terminal.enter()
        try:
            while not self._done():
                ready = yield self
                self._turn(ready or {})
        finally:
            try:
                if not (self._dead or self._detached()):
                    self._end_now()
            finally:
                _close(self._held)
                if self._terminal:
                    self._terminal.leave()
        return self._outcome()

    @property
    def pid(self) -> int:
        """The host's number of the sandbox's init, 0 before it is there."""
        started = self._last.get(events.STARTED)
        return started.pid if started else 0

    @property
    def running(self) -> bool:
        """Whether the payload was started."""
        return events.RUNNING in self._last and not self._errors

    def kill(self) -> None:
        """Have everything in the sandbox killed; the turns tell when it is dead."""
        self._kill()

    def _detached(self) -> bool:
        return self._detach and events.RUNNING in self._last

    def _done(self) -> bool:
        return (self._dead and self._streams.drained) or self._detached()

    def _turn(self, ready: dict[int, int]) -> None:
        if self._channel_fd() in ready:
            self._receive()
        if self._inbox.fd in ready:
            for number in self._inbox.read():
                self._on_signal(number)
        if self._orders and self._orders.fd in ready:
            for number in self._orders.read():
                self._on_request(number)
        if self._beside and self._beside.fileno() in ready:
            self._beside.hear()
        if not self._dead and (self._launched.pidfd in ready or self._gone_unseen()):
            self._reap()
        self._streams.step(ready)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._on_deadline()

    def wanted(self) -> dict[int, int]:
        """The descriptors to wait for, with their poll masks; 0 is for errors alone."""
        wanted = {self._inbox.fd: select.POLLIN}
        if self._orders:
            wanted[self._orders.fd] = select.POLLIN
        if self._beside:
            wanted[self._beside.fileno()] = select.POLLIN
        if self._channel_open:
            wanted[self._channel_fd()] = select.POLLIN
        if not self._dead:
            wanted[self._launched.pidfd] = select.POLLIN
        for fd, mask in self._streams.interest():
            wanted[fd] = wanted.get(fd, 0) | mask
        wanted.pop(-1, None)
        return wanted

    def wait(self, timeout_s: float | None = None) -> dict[int, int]:
        """Wait as long as it is right to; return what is ready. `timeout_s` is instead of that."""
        poller = select.poll()
        for fd, mask in self.wanted().items():
            poller.register(fd, mask)
        patience_s = self.patience_s() if timeout_s is None else timeout_s
        # Rounded up: a poll that returns too early would only be repeated at once.
        patience_ms = None if patience_s is None else int(patience_s * 1000) + (patience_s > 0)
        return dict(poller.poll(patience_ms))

    def patience_s(self) -> float | None:
        """How long to wait at most, None for ever."""
        if self._streams.eager:
            return 0.0
        wakes = [at for at in (self._deadline, self._streams.wake_at) if at]
        return max(0.0, min(wakes) - time.monotonic()) if wakes else None

    # ---- the channel --------------------------------------------------------------------

    def _channel_fd(self) -> int:
        return self._launched.channel.fileno() if self._channel_open else -2

    def _receive(self) -> None:
        """Read all events that are there. A reset only says that an order was left unread."""
        while self._channel_open:
            try:
                data, ancillary, _, _ = self._launched.channel.recvmsg(
                    events.RECORD_BYTES + 1,
                    _socket.CMSG_SPACE(4 * _DESCRIPTORS),
                    _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue
            descriptors = _descriptors(ancillary)
            if data:
                self._on_event(data, descriptors)
            else:
                self._channel_open = False
            _close(descriptors)

    def _on_event(self, data: bytes, descriptors: list[int]) -> None:
        event = events.decode(data)
        if event is None:
            return
        self._last[event.kind] = event
        attached = not self._detach and self._streams.master < 0
        if event.kind == events.TTY and descriptors and attached:
            master = descriptors.pop()
            self._streams.attach_terminal(master)
            if self._terminal:
                self._terminal.copy_size(master)
        elif event.kind == events.HELD and self._prepare and not self._held:
            self._held = tuple(descriptors)
            descriptors.clear()
        elif event.kind == events.RUNNING:
            self._streams.begin_input()
        elif event.kind == events.ERROR:
            self._errors.append(event)
        elif event.kind == events.WARNING:
            self._warnings.append(event)
        elif event.kind == events.EXITED and self._stage == _LIVING:
            self._deadline = None  # it ended in time, however long the tear-down takes
        if event.kind in (events.STARTED, events.HELD):
            self._release_when_held()
        if self._notice:
            self._notice(event)

    def _release_when_held(self) -> None:
        """The launcher tells the pid and init that it waits, in either order."""
        started = self._last.get(events.STARTED)
        if started is None or events.HELD not in self._last or self._stage >= _KILLING:
            return
        if self._prepare:
            held, self._held = self._held, ()
            self._prepare(started.pid, held)
            self._prepare = None
        self._order(events.RELEASE)
        for number in self._early:
            self._order(number)

    def _order(self, number: int) -> None:
        """Send one byte to the launcher; one that cannot take it any more is left alone.

        What stays held has no payload yet that signals could be passed on to: they wait too.
        """
        if self._prepare and number != events.KILL_ALL:
            self._early.append(number)
            return
        try:
            flags = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL
            self._launched.channel.send(bytes((number,)), flags)
        except OSError:
            return

    # ---- the end ------------------------------------------------------------------------

    def _on_deadline(self) -> None:
        if self._dead:
            self._deadline = None
            self._streams.abandon()
        elif self._stage == _LIVING:
            self._timed_out = True
            if self._grace_s > 0:
                self._stage = _TERMINATING
                self._deadline = time.monotonic() + self._grace_s
                self._order(signal.SIGTERM)
            else:
                self._kill()
        elif self._stage == _TERMINATING:
            self._kill()
        else:
            self._force()

    def _kill(self) -> None:
        if self._stage < _KILLING:
            self._stage = _KILLING
            self._deadline = time.monotonic() + KILL_WAIT_S
            self._order(events.KILL_ALL)

    def _force(self) -> None:
        """Kill the launcher itself: init has it as its parent and dies with it."""
        self._stage = _FORCED
        self._deadline = None
        if self._launched.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._launched.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return
            except OSError:  # an outer filter refuses the call; the number of a child is its own
                os.kill(self._launched.pid, signal.SIGKILL)

    def _gone_unseen(self) -> bool:
        """Without a pidfd (somebody reaps our children) the channel's end tells."""
        return self._launched.pidfd < 0 and not self._channel_open

    def _reap(self) -> None:
        if self._channel_open:
            self._receive()
        if self._launched.pidfd >= 0:
            try:
                found = os.waitid(os.P_PIDFD, self._launched.pidfd, os.WEXITED)
                if found is not None:
                    exited = found.si_code == os.CLD_EXITED
                    self._status = found.si_status << 8 if exited else found.si_status & 0x7F
            except ChildProcessError:
                self._status = None
        self._dead = True
        self._ended = time.monotonic()
        self._deadline = self._ended + DRAIN_S if self._stage != _LIVING else None
        self._streams.finish()

    def _end_now(self) -> None:
        """After an exception: kill, wait, kill harder, wait. Interrupts only speed it up."""
        self._kill()
        for patience_s in (KILL_WAIT_S, KILL_WAIT_S):
            try:
                if self._await_death(patience_s):
                    break
            except KeyboardInterrupt:
                self._force()
                continue
            self._force()
        self._reap_if_dead()

    def _await_death(self, patience_s: float) -> bool:
        poller = select.poll()
        fd = self._launched.pidfd
        poller.register(fd if fd >= 0 else self._launched.channel.fileno(), select.POLLIN)
        end = time.monotonic() + patience_s
        while (left := end - time.monotonic()) > 0:
            if poller.poll(left * 1000) and (fd >= 0 or self._channel_ended()):
                return True
        return False

    def _channel_ended(self) -> bool:
        try:
            return not self._launched.channel.recv(1024)
        except ConnectionResetError:  # an order was left unread; the end itself comes after it
            return False

    def _reap_if_dead(self) -> None:
        if self._launched.pidfd >= 0:
            try:
                os.waitid(os.P_PIDFD, self._launched.pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return

    # ---- signals ------------------------------------------------------------------------

    def _on_request(self, number: int) -> None:
        if number == events.KILL_ALL:
            self._kill()
        elif not self._dead:
            self._order(number)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            self._resize()
        elif number == signal.SIGTSTP:
            self._suspend()
        elif number == signal.SIGCONT:
            self._resume()
        elif number in FATAL:
            self._kill()
        elif self._dead:
            self._streams.abandon()  # nobody wants to wait for a slow reader any more
        else:
            self._interrupts += number in (signal.SIGINT, signal.SIGTERM)
            if self._interrupts >= INTERRUPTS_THAT_KILL:
                self._kill()
            else:
                self._order(number)

    def _resize(self) -> None:
        if self._terminal and self._streams.master >= 0:
            self._terminal.copy_size(self._streams.master)

    def _suspend(self) -> None:
        """Stop the payload and ourselves. SIGTSTP would do nothing to it: the kernel ignores
        that signal in a session without a shell above it (setpgid(2), orphaned groups)."""
        self._order(signal.SIGSTOP)
        if self._terminal:
            self._terminal.leave()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _resume(self) -> None:
        if self._terminal:
            self._terminal.enter()
        self._resize()
        self._order(signal.SIGCONT)

    def _outcome(self) -> Outcome:
        full = self._last.get(events.FULL)
        return Outcome(
            started=self._last.get(events.STARTED),
            running=self._last.get(events.RUNNING),
            exited=self._last.get(events.EXITED),
            done=self._last.get(events.DONE),
            errors=tuple(self._errors),
            warnings=tuple(self._warnings),
            status=self._status,
            timed_out=self._timed_out,
            killed=self._stage >= _KILLING,
            wall_s=self._ended - self._began,
            full=full.text if full else "",
        )


def _close(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            usable = len(data) - len(data) % 4
            found += memoryview(data)[:usable].cast("i").tolist()
    return found

"""Orders from other threads: in order, after the end, and around a garbage collection."""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import Any

import pytest

from sandbox.launcher import fake
from sandbox.launcher.events import KILL_ALL
from sandbox.launcher.spawn import launch
from sandbox.runtime.orders import Orders
from sandbox.runtime.signals import SignalInbox
from sandbox.runtime.streams import Streams
from sandbox.runtime.supervise import Outcome, Supervisor, drive


def test_they_come_in_order_and_wake_who_waits() -> None:
    orders = Orders()
    assert orders.read() == []
    assert orders.post(signal.SIGTERM)
    assert orders.kill()
    assert select.select([orders.fd], [], [], 0)[0]
    assert orders.read() == [signal.SIGTERM, KILL_ALL]
    assert not select.select([orders.fd], [], [], 0)[0]
    orders.close()
    orders.close()


def test_after_the_end_nothing_happens() -> None:
    orders = Orders()
    number = orders.fd
    orders.close()
    other = os.open(os.devnull, os.O_RDONLY)  # may have the number by now
    assert not orders.post(9)
    assert orders.fd == -1
    assert number != -1
    os.close(other)


def test_a_post_inside_a_post_does_not_wait_for_itself() -> None:
    orders = Orders()
    with orders._lock:  # as a finalizer that the collector runs in the middle of `post`
        assert orders.kill()
    assert orders.read() == [KILL_ALL]
    orders.close()


def ordered(steps: list[Any], number: int) -> Outcome:
    """A run that is given one order by another thread as soon as its payload runs."""
    orders, streams = Orders(), Streams(None, None, None, 0)
    launched = launch(b"", program=fake.program(steps))
    streams.attach(launched, terminal=False)
    supervisor = Supervisor(launched, streams, SignalInbox(), orders=orders)
    turns = supervisor.turns()
    try:
        assert next(turns) is supervisor
        while not supervisor.running:
            turns.send(supervisor.wait())
        other = threading.Thread(target=orders.post, args=(number,))
        other.start()
        other.join()

        def rest() -> Any:
            while True:
                turns.send(supervisor.wait())

        with pytest.raises(StopIteration) as end:
            rest()
        outcome: Outcome = end.value.value
        return outcome
    finally:
        turns.close()
        orders.close()
        launched.close()
        streams.close()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTSTP, signal.SIGWINCH])
def test_a_signal_is_passed_on_as_it_is(number: int) -> None:
    steps: list[Any] = [["started"], ["running"], ["order", int(number)], ["done", 0], ["exit", 0]]
    outcome = ordered(steps, number)
    assert outcome.status == 0
    assert not outcome.killed


def test_an_order_kills_everything() -> None:
    outcome = ordered([["started"], ["running"], ["order", KILL_ALL], ["exit", 0]], KILL_ALL)
    assert outcome.killed


def test_turns_that_are_closed_kill_the_sandbox() -> None:
    streams = Streams(None, None, None, 0)
    launched = launch(b"", program=fake.program([["started"], ["running"], ["ignore", 60]]))
    streams.attach(launched, terminal=False)
    turns = Supervisor(launched, streams, SignalInbox()).turns()
    next(turns)
    turns.close()
    assert not os.path.exists(f"/proc/{launched.pid}")
    launched.close()
    streams.close()


def test_drive_ends_the_turns_before_an_exception_leaves() -> None:
    class Interrupted(Supervisor):
        def wait(self, _: float | None = None) -> dict[int, int]:
            raise KeyboardInterrupt

    streams = Streams(None, None, None, 0)
    launched = launch(b"", program=fake.program([["started"], ["running"], ["ignore", 60]]))
    streams.attach(launched, terminal=False)
    with pytest.raises(KeyboardInterrupt):
        drive(Interrupted(launched, streams, SignalInbox()).turns())
    assert not os.path.exists(f"/proc/{launched.pid}")
    launched.close()
    streams.close()

"""The event loop: descriptors, timers, and what changes during a round."""

import os
import select
from collections.abc import Iterator

import pytest

from sandbox.services.network.user.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    made.later(20, lambda: pytest.fail("the loop did not end"))
    yield made
    made.close()


def test_a_ready_descriptor_and_a_forgotten_one(loop: Loop) -> None:
    reading, writing = os.pipe()
    calls: list[int] = []

    def ready(mask: int) -> None:
        calls.append(mask)
        os.read(reading, 10)
        loop.forget(reading)
        loop.forget(reading)
        os.write(writing, b"again")
        loop.later(0.01, loop.stop)

    loop.watch(reading, select.EPOLLIN, ready)
    os.write(writing, b"x")
    loop.run()
    assert calls == [select.EPOLLIN]
    os.close(reading)
    os.close(writing)


def test_other_events_of_the_same_descriptor(loop: Loop) -> None:
    reading, writing = os.pipe()
    seen: list[int] = []

    def ready(mask: int) -> None:
        seen.append(mask)
        loop.stop()

    loop.watch(writing, 0, ready)
    loop.change(writing, select.EPOLLOUT)
    loop.run()
    assert seen == [select.EPOLLOUT]
    os.close(reading)
    os.close(writing)


def test_timers_fire_in_order_and_not_when_cancelled(loop: Loop) -> None:
    fired: list[str] = []
    loop.later(0.02, lambda: fired.append("second"))
    loop.later(0.01, lambda: fired.append("first"))
    loop.later(0.015, lambda: fired.append("never")).cancel()
    last = loop.later(0.03, loop.stop)
    loop.run()
    last.cancel()
    assert fired == ["first", "second"]


def test_cancelled_timers_are_not_all_kept(loop: Loop) -> None:
    kept: list[int] = []
    for number in range(5000):
        loop.later(10, lambda: None).cancel()
        if number % 1000 == 0:
            loop.later(0.01 + number * 1e-6, lambda number=number: kept.append(number))  # type: ignore[misc]
    assert len(loop._timers) < 600
    loop.later(0.05, loop.stop)
    loop.run()
    assert kept == [0, 1000, 2000, 3000, 4000]


def test_a_descriptor_that_is_forgotten_in_the_round_is_not_called(loop: Loop) -> None:
    pipes = [os.pipe(), os.pipe()]
    calls: list[int] = []

    def ready(_: int) -> None:
        calls.append(1)
        for reading, _writing in pipes:
            loop.forget(reading)
        loop.stop()

    for reading, writing in pipes:
        loop.watch(reading, select.EPOLLIN, ready)
        os.write(writing, b"x")
    loop.run()
    assert calls == [1]
    for fd in [fd for pair in pipes for fd in pair]:
        os.close(fd)


def test_soon_lets_descriptors_go_first(loop: Loop) -> None:
    reading, writing = os.pipe()
    order: list[str] = []

    def again(count: int = 3) -> None:
        order.append("soon")
        loop.soon(lambda: again(count - 1) if count else loop.stop())

    def ready(_: int) -> None:
        order.append("ready")
        os.read(reading, 1)

    loop.watch(reading, select.EPOLLIN, ready)
    loop.soon(again)
    os.write(writing, b"x")
    loop.run()
    assert order == ["ready", "soon", "soon", "soon", "soon"]
    os.close(reading)
    os.close(writing)

"""Signals as bytes, and their names."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from sandbox.errors import Interrupted
from sandbox.runtime.signals import CAUGHT, Interrupts, SignalInbox, signal_name


@pytest.mark.parametrize("number", [n for n in signal.valid_signals() if n < 32])
def test_names_are_those_of_the_signal_module(number: int) -> None:
    assert signal_name(number) == signal.Signals(number).name


def test_signals_without_a_name() -> None:
    assert signal_name(signal.SIGRTMIN + 3) == "SIGRTMIN+3"
    assert signal_name(99) == "signal 99"


def test_what_came_is_read_in_order() -> None:
    inbox = SignalInbox()
    inbox.open(CAUGHT)
    try:
        assert inbox.read() == b""
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert sorted(inbox.read()) == [signal.SIGUSR1, signal.SIGTERM]
    finally:
        inbox.close()


def test_an_ignored_signal_stays_ignored() -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    inbox = SignalInbox()
    try:
        inbox.open(CAUGHT)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGHUP)
        assert inbox.read() == b""
    finally:
        inbox.close()
        signal.signal(signal.SIGHUP, old)


def test_everything_is_put_back() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    before = [signal.getsignal(number) for number in CAUGHT]
    try:
        inbox = SignalInbox()
        inbox.open(CAUGHT)
        inbox.close()
        inbox.close()
        assert [signal.getsignal(number) for number in CAUGHT] == before
    finally:
        assert signal.set_wakeup_fd(-1) == writing
        os.close(reading)
        os.close(writing)


def test_another_thread_catches_nothing_and_leaks_nothing() -> None:
    before = set(os.listdir("/proc/self/fd"))
    found: list[int] = []

    def one() -> None:
        inbox = SignalInbox()
        inbox.open(CAUGHT)
        found.append(inbox.fd)
        inbox.close()

    thread = threading.Thread(target=one)
    thread.start()
    thread.join(10)
    assert found == [-1]
    assert set(os.listdir("/proc/self/fd")) == before


def test_an_interrupt_is_raised_once_and_only_where_it_may() -> None:
    before = signal.getsignal(signal.SIGTERM)
    interrupts = Interrupts()
    interrupts.open()
    try:
        with pytest.raises(Interrupted) as caught, interrupts:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.exit_code == 128 + signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)  # while the clean-up goes on
    finally:
        interrupts.close()
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_interrupt_waits_for_the_next_check() -> None:
    interrupts = Interrupts()
    interrupts.open()
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Interrupted, match="SIGHUP"):
            interrupts.check()
        with pytest.raises(Interrupted, match="SIGHUP"), interrupts:
            raise AssertionError("this must not be reached")
    finally:
        interrupts.close()

"""The loop against a launcher that only acts: clock, orders, death, output."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SetupError
from sandbox.launcher import events, fake
from sandbox.launcher.spawn import Descriptors, Launched, launch
from sandbox.runtime import supervise
from sandbox.runtime.report import conclude
from sandbox.runtime.signals import CAUGHT, SignalInbox
from sandbox.runtime.streams import Streams
from sandbox.runtime.supervise import Outcome, Supervisor, drive

Steps = Sequence[Any]
START: list[Any] = [["started"], ["running"]]


class Run:
    """One run of the fake launcher, with what came out of it."""

    def __init__(
        self,
        steps: Steps,
        *,
        stdin: int | bytes | None = None,
        limit: int = 0,
        tty: bool = False,
        caught: tuple[int, ...] = (),
        **options: object,
    ) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self.streams = Streams(stdin, self.stdout, self.stderr, limit)
        self.launched: Launched = launch(b"", program=fake.program(steps))
        self.seen: list[int] = []
        inbox = SignalInbox()
        try:
            self.streams.attach(self.launched, terminal=tty)
            if caught:
                inbox.open(caught)
            notice = options.pop("notice", lambda event: self.seen.append(event.kind))
            supervisor = Supervisor(
                self.launched,
                self.streams,
                inbox,
                notice=notice,  # type: ignore[arg-type]
                **options,  # type: ignore[arg-type]
            )
            self.outcome: Outcome = drive(supervisor.turns())
        finally:
            inbox.close()
            self.launched.close()
            self.streams.close()

    @property
    def reason(self) -> str:
        return conclude(self.outcome, dropped=self.streams.budget.exceeded, has_init=True)[0]


def test_events_arrive_in_order_and_the_status_is_the_payloads() -> None:
    run = Run(fake.success("hello", code=3))
    assert run.seen == [events.STARTED, events.RUNNING, events.EXITED, events.DONE]
    assert run.stdout == b"hello"
    assert run.outcome.exited is not None
    assert run.outcome.exited.status == 3 << 8
    assert run.outcome.status == 3 << 8
    assert run.reason == "exited"


def test_input_is_empty_without_a_source() -> None:
    assert Run([*START, ["echo"], ["write", 1, "end"], *fake.success()[3:]]).stdout == b"end"


def test_input_goes_through_whole() -> None:
    content = os.urandom(1 << 20)
    run = Run([*START, ["echo"], *fake.success()[3:]], stdin=content)
    assert run.stdout == content


def test_a_payload_that_reads_no_input_ends() -> None:
    assert Run([*START, ["close", 0], *fake.success()[3:]], stdin=b"x" * 500_000).reason == "exited"


def test_input_that_never_ends_does_not_hold_up_the_end() -> None:
    reading, writing = os.pipe()
    try:
        assert Run(fake.success("x"), stdin=reading).stdout == b"x"
    finally:
        os.close(reading)
        os.close(writing)


def test_output_above_the_limit_is_dropped_and_counted() -> None:
    steps = [*START, ["flood", 1, 3_000_000], ["flood", 2, 1000], *fake.success(code=4)[3:]]
    run = Run(steps, limit=5000)
    assert len(run.stdout) + len(run.stderr) == 5000
    assert run.streams.budget.dropped == 2_996_000
    assert run.reason == "output-limit"
    assert run.outcome.exited is not None
    assert run.outcome.exited.status == 4 << 8


def test_the_time_limit_asks_first() -> None:
    run = Run([*START, ["order", 15], ["exited", 15], ["done", 0]], timeout_s=0.1, grace_s=30)
    assert run.reason == "timeout"
    assert not run.outcome.killed
    assert run.outcome.wall_s < 20


def test_the_time_limit_kills_what_does_not_listen() -> None:
    run = Run([*START, ["ignore", 60]], timeout_s=0.1, grace_s=0.1)
    assert (run.reason, run.outcome.killed) == ("timeout", True)
    assert 0.2 <= run.outcome.wall_s < 20


def test_no_grace_kills_at_once() -> None:
    run = Run([*START, ["ignore", 60]], timeout_s=0.1, grace_s=0)
    assert (run.reason, run.outcome.killed) == ("timeout", True)


def test_a_launcher_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "KILL_WAIT_S", 0.2)
    run = Run([*START, ["sleep", 60]], timeout_s=0.1, grace_s=0.1)
    assert run.reason == "timeout"
    assert run.outcome.status == signal.SIGKILL


def test_the_end_in_time_counts_even_if_the_tear_down_is_late() -> None:
    steps = [*START, ["exited", 0], ["sleep", 0.4], ["done", 0]]
    run = Run(steps, timeout_s=0.2, grace_s=0.1)
    assert run.reason == "exited"


def test_a_killed_launcher_is_told_from_a_killed_payload() -> None:
    assert Run([*START, ["die", 9]]).reason == "launcher-killed"
    assert Run([*START, ["exited", 9], ["done", 137 << 8]]).reason == "signalled"
    assert Run([*START, ["exited", signal.SIGSYS], ["done", 0]]).reason == "policy-killed"


def test_errors_and_warnings_are_kept() -> None:
    steps: Steps = [
        ["warning", 3, errno.EPERM, "w"],
        ["error", 4, 5, errno.ENOENT, "/x"],
        ["exit", 125],
    ]
    outcome = Run(steps).outcome
    assert [event.text for event in outcome.warnings] == ["w"]
    assert [(e.op, e.errno, e.text) for e in outcome.errors] == [(5, errno.ENOENT, "/x")]


def test_a_malformed_event_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "KILL_WAIT_S", 0.2)
    with pytest.raises(SetupError, match="cannot understand the launcher"):
        Run([["started"], ["raw", "00" * 512], ["sleep", 60]])


def test_an_exception_leaves_nothing_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "KILL_WAIT_S", 0.2)
    pids = []

    def fail(event: events.Event) -> None:
        pids.append(event.pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run([["started"], ["sleep", 60]], notice=fail)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_somebody_else_reaps_our_child() -> None:
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        run = Run(fake.success("x", code=2))
    finally:
        signal.signal(signal.SIGCHLD, old)
    assert run.outcome.exited is not None
    assert run.outcome.exited.status == 2 << 8


def test_it_works_in_threads() -> None:
    results = []

    def one() -> None:
        results.append(bytes(Run(fake.success("x"), caught=CAUGHT).stdout))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [b"x"] * 4


# ---- signals --------------------------------------------------------------------------------


def send_when_running(*numbers: int) -> object:
    def notice(event: events.Event) -> None:
        if event.kind == events.RUNNING:
            for number in numbers:
                os.kill(os.getpid(), number)

    return notice


@pytest.mark.parametrize("number", [1, 2, 3, 10, 12, 15])
def test_signals_are_forwarded(number: int) -> None:
    steps = [*START, ["order", number], ["exited", number], ["done", 0]]
    run = Run(steps, caught=CAUGHT, notice=send_when_running(number))
    assert run.reason == "signalled"
    assert not run.outcome.killed


def test_the_third_interrupt_kills() -> None:
    steps = [*START, ["ignore", 60]]
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGINT
    run = Run(steps, caught=CAUGHT, notice=send_when_running(*numbers))
    assert (run.reason, run.outcome.killed) == ("signalled", True)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in CAUGHT]
    Run(fake.success(), caught=CAUGHT)
    assert [signal.getsignal(number) for number in CAUGHT] == before


def test_stopping_stops_the_payload_and_going_on_goes_on() -> None:
    steps = [*START, ["order", signal.SIGSTOP], ["order", signal.SIGCONT], *fake.success()[3:]]
    waker = os.fork()
    if waker == 0:  # wakes its parent as a shell's `fg` does
        state = Path(f"/proc/{os.getppid()}/stat")
        while state.read_text().split(")")[1].split()[0] != "T":
            time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGCONT)
        os._exit(0)
    run = Run(steps, caught=CAUGHT, notice=send_when_running(signal.SIGTSTP))
    os.waitpid(waker, 0)
    assert run.reason == "exited"


# ---- the pseudo-terminal --------------------------------------------------------------------


def test_a_pty_is_relayed_both_ways() -> None:
    run = Run([["tty"], *START, ["echo"], *fake.success()[3:]], stdin=b"line\n", tty=True)
    assert run.stdout.count(b"line\r\n") == 2  # its own echo, and the payload's


def test_the_end_of_piped_input_reaches_a_pty() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"half")
    os.close(writing)
    run = Run([["tty"], *START, ["echo"], *fake.success()[3:]], stdin=reading, tty=True)
    os.close(reading)
    assert run.stdout.endswith(b"half")


def test_output_of_a_pty_is_complete() -> None:
    run = Run([["tty"], *START, ["flood", 1, 200_000], *fake.success()[3:]], tty=True)
    assert len(run.stdout) == 200_000


def test_descriptors_do_not_leak() -> None:
    before = set(os.listdir("/proc/self/fd"))
    Run([["tty"], ["tty"], *START, *fake.success()[3:]], tty=True)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("order", [b"", b"unread"])
def test_the_end_of_a_channel_with_unread_orders_is_no_error(order: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if order:
        ours.send(order)
    theirs.close()  # with something unread, the next receive is a connection reset
    streams = Streams(None, None, None, 0)
    supervisor = Supervisor(Launched(Descriptors(), ours), streams, SignalInbox())
    assert supervisor._await_death(5.0)
    streams.close()
    ours.close()


def test_the_terminal_is_restored_even_when_the_end_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Restored:
        def enter(self) -> None:
            seen.append("enter")

        def leave(self) -> None:
            seen.append("leave")

        def copy_size(self, _master: int) -> None:
            raise AssertionError("there is no terminal")

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(Supervisor, "_turn", broken)
    monkeypatch.setattr(Supervisor, "_end_now", broken)
    with pytest.raises(OSError, match="broken"):
        Run([], terminal=Restored())
    assert seen == ["enter", "leave"]


# ---- held sandboxes -------------------------------------------------------------------------


@pytest.mark.parametrize("first", [["started"], ["held"]])
def test_a_held_sandbox_goes_on_once_it_is_prepared(first: list[str]) -> None:
    second = ["held"] if first == ["started"] else ["started"]
    seen: list[int] = []
    steps = [first, second, ["order", events.RELEASE], ["running"], ["done", 0], ["exit", 0]]
    run = Run(steps, prepare=lambda pid, _: seen.append(pid))
    assert run.outcome.started is not None
    assert seen == [run.outcome.started.pid]
    assert run.outcome.running is not None
    assert run.outcome.status == 0


def test_a_held_sandbox_without_services_goes_on() -> None:
    run = Run([["held"], ["started"], ["order", events.RELEASE], ["exit", 0]])
    assert run.outcome.status == 0


def test_signals_wait_until_a_held_sandbox_goes_on() -> None:
    def on_start(event: events.Event) -> None:
        if event.kind == events.STARTED:
            os.kill(os.getpid(), signal.SIGUSR1)

    steps = [["started"], ["sleep", 0.2], ["held"], ["order", events.RELEASE]]
    steps += [["order", signal.SIGUSR1], ["exit", 3]]
    seen: list[int] = []
    run = Run(steps, prepare=lambda pid, _: seen.append(pid), notice=on_start, caught=CAUGHT)
    assert len(seen) == 1
    assert run.outcome.status == 3 << 8


def test_what_cannot_be_prepared_ends_the_sandbox() -> None:
    def fail(_pid: int, _descriptors: tuple[int, ...]) -> None:
        raise SetupError("no network")

    with pytest.raises(SetupError, match="no network"):
        Run([["started"], ["held"], ["order", events.KILL_ALL], ["sleep", 60]], prepare=fail)


def test_a_held_sandbox_ends_at_its_time_limit() -> None:
    """Not even the signal before the last one reaches it; the end does."""
    steps = [["started"], ["order", events.KILL_ALL], ["sleep", 60]]
    run = Run(steps, prepare=print, timeout_s=0.1, grace_s=0.1)
    assert run.outcome.timed_out
    assert run.outcome.killed

"""Streams: order kept, slow and dead readers, bounds, and the caller's descriptors untouched."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.runtime.endpoint import Endpoint, open_endpoint
from sandbox.runtime.output import Budget, Inflow, Outflow


def private_pipe() -> tuple[int, int]:
    """A pipe whose two ends do not block, as the supervisor has them."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    return reading, writing


def turn(*flows: Outflow | Inflow, timeout_ms: int = 1000) -> dict[int, int]:
    """One turn of the loop, as in the supervisor."""
    wanted: dict[int, int] = {}
    for flow in flows:
        for fd, mask in flow.interest():
            wanted[fd] = wanted.get(fd, 0) | mask
    poller = select.poll()
    for fd, mask in wanted.items():
        poller.register(fd, mask)
    ready = dict(poller.poll(timeout_ms))
    for flow in flows:
        flow.step(ready)
    return ready


def run(*flows: Outflow | Inflow, until: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if until():
            return
        turn(*flows)
    raise AssertionError("the streams do not end")


@given(st.integers(0, 50), st.lists(st.integers(0, 30)))
def test_a_budget_passes_the_limit_and_counts_the_rest(limit: int, counts: list[int]) -> None:
    budget = Budget(limit)
    passed = sum(budget.take(count) for count in counts)
    assert passed == budget.passed == (min(limit, sum(counts)) if limit else sum(counts))
    assert budget.passed + budget.dropped == sum(counts)


# ---- sandbox → caller -----------------------------------------------------------------------


def test_bytes_arrive_in_order_in_memory() -> None:
    reading, writing = private_pipe()
    target = bytearray()
    flow = Outflow(reading, target, Budget(0))
    sent = b""
    for number in range(2000):
        piece = f"{number} ".encode()
        sent += piece
        os.write(writing, piece)
        turn(flow)
    os.close(writing)
    run(flow, until=lambda: not flow.open)
    assert target == sent


def test_both_streams_share_one_limit() -> None:
    budget = Budget(10)
    targets = bytearray(), bytearray()
    pipes = private_pipe(), private_pipe()
    flows = [Outflow(p[0], t, budget) for p, t in zip(pipes, targets, strict=True)]
    for _, writing in pipes:
        os.write(writing, b"1234567")
        os.close(writing)
    run(*flows, until=lambda: not any(flow.open for flow in flows))
    assert len(targets[0]) + len(targets[1]) == 10
    assert (budget.passed, budget.dropped) == (10, 4)


def test_nowhere_takes_and_counts_everything() -> None:
    reading, writing = private_pipe()
    budget = Budget(0)
    flow = Outflow(reading, None, budget)
    os.write(writing, b"12345")
    os.close(writing)
    run(flow, until=lambda: not flow.open)
    assert budget.passed == 5


def test_a_slow_reader_slows_the_writer_and_loses_nothing() -> None:
    reading, writing = private_pipe()
    far, near = private_pipe()
    endpoint = Endpoint(near, writing=True)
    flow = Outflow(reading, endpoint, Budget(0))
    sent = 0
    for _ in range(50):  # nobody reads: both pipes and one chunk fill, then no more is taken
        try:
            sent += os.write(writing, b"x" * 65536)
        except BlockingIOError:
            pass
        turn(flow, timeout_ms=0)
    assert sent < 65536 * 5
    assert list(flow.interest())
    os.close(writing)
    os.close(near)
    got = 0
    while flow.open:
        turn(flow, timeout_ms=0)
        got += len(os.read(far, 1 << 20)) if select.select([far], [], [], 0)[0] else 0
    endpoint.close()
    while data := os.read(far, 1 << 20):
        got += len(data)
    assert got == sent
    os.close(far)


def test_a_dead_reader_breaks_the_pipe_for_the_writer_at_once() -> None:
    reading, writing = private_pipe()
    far, near = os.pipe()
    endpoint = Endpoint(near, writing=True)
    flow = Outflow(reading, endpoint, Budget(0))
    os.close(far)
    turn(flow)  # nothing was written yet
    assert list(flow.interest()) == []
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"x")
    endpoint.close()
    os.close(near)
    os.close(writing)


def test_a_full_disk_is_remembered() -> None:
    reading, writing = private_pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    endpoint = Endpoint(full, writing=True)
    flow = Outflow(reading, endpoint, Budget(0))
    os.write(writing, b"x")
    turn(flow)
    assert not flow.open
    assert isinstance(flow.error, OSError)
    endpoint.close()
    os.close(full)
    os.close(writing)


def test_after_the_end_only_what_is_buffered_is_read() -> None:
    reading, writing = private_pipe()  # `writing` stays open, as if handed to somebody outside
    target = bytearray()
    flow = Outflow(reading, target, Budget(0))
    os.write(writing, b"left")
    flow.finish()
    for _ in range(2):
        assert flow.eager
        turn(flow, timeout_ms=0)
    assert not flow.open
    assert target == b"left"
    os.close(writing)


def test_a_writer_outside_cannot_write_for_ever() -> None:
    reading, writing = private_pipe()
    size = fcntl.fcntl(reading, fcntl.F_GETPIPE_SZ)
    target = bytearray()
    flow = Outflow(reading, target, Budget(0))
    flow.finish()
    while flow.open:
        os.write(writing, b"x" * 4096)
        turn(flow, timeout_ms=0)
    assert len(target) == size
    os.close(writing)


def test_what_is_given_up_counts_as_dropped() -> None:
    reading, writing = private_pipe()
    far, near = private_pipe()
    os.write(near, b"x" * 65536)
    endpoint = Endpoint(near, writing=True)
    budget = Budget(0)
    flow = Outflow(reading, endpoint, budget)
    os.write(writing, b"lost")
    turn(flow)
    os.write(writing, b"too")
    flow.finish()
    flow.abandon()
    assert (budget.passed, budget.dropped) == (0, 7)
    endpoint.close()
    for fd in (writing, far, near):
        os.close(fd)


# ---- caller → sandbox -----------------------------------------------------------------------


def received(reading: int) -> bytes:
    data = b""
    while True:
        try:
            piece = os.read(reading, 1 << 20)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


def test_no_source_is_an_empty_input() -> None:
    reading, writing = private_pipe()
    assert not Inflow(None, writing).open
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_memory_is_fed_to_the_end() -> None:
    reading, writing = private_pipe()
    flow = Inflow(b"x" * 300_000, writing)
    data = b""
    while flow.open:
        turn(flow)
        data += received(reading)
    assert data + received(reading) == b"x" * 300_000
    os.close(reading)


@pytest.mark.parametrize("kind", ["file", "pipe", "socket"])
def test_a_source_is_relayed_to_its_end(kind: str, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    fd, feed = open_source(kind, tmp_path, content)
    endpoint = Endpoint(fd, writing=False)
    reading, writing = private_pipe()
    flow = Inflow(endpoint, writing)
    data = b""
    while flow.open:
        content_left = feed()
        turn(flow, timeout_ms=0 if content_left else 1000)
        data += received(reading)
    assert data + received(reading) == content
    endpoint.close()
    os.close(fd)
    os.close(reading)


def open_source(kind: str, folder: Path, content: bytes) -> tuple[int, Callable[[], bool]]:
    """A descriptor and what fills it from behind; that returns whether more is to come."""
    if kind == "file":
        (folder / "input").write_bytes(content)
        return os.open(folder / "input", os.O_RDONLY), lambda: False
    left = bytearray(content)
    if kind == "pipe":
        fd, far = os.pipe()
    else:
        ends = socket.socketpair()
        fd, far = (end.detach() for end in ends)
    os.set_blocking(far, False)
    unclosed = [far]

    def feed() -> bool:
        try:
            while left:
                del left[: os.write(far, left)]
        except BlockingIOError:
            return True
        while unclosed:
            os.close(unclosed.pop())
        return False

    return fd, feed


def test_a_payload_that_closes_its_input_ends_the_flow_without_a_write() -> None:
    far, fd = os.pipe()
    endpoint = Endpoint(far, writing=False)
    reading, writing = private_pipe()
    flow = Inflow(endpoint, writing)
    os.close(reading)
    turn(flow)
    assert not flow.open
    os.write(fd, b"for somebody else")
    assert os.read(far, 99) == b"for somebody else"
    endpoint.close()
    os.close(far)
    os.close(fd)


def test_at_most_one_chunk_is_read_ahead() -> None:
    far, fd = os.pipe()
    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.write(fd, b"x" * (1 << 20))
    endpoint = Endpoint(far, writing=False)
    reading, writing = private_pipe()
    capacity = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    flow = Inflow(endpoint, writing)
    for _ in range(50):
        turn(flow, timeout_ms=0)
    os.set_blocking(far, False)
    assert len(received(far)) >= (1 << 20) - capacity - 65536
    flow.end()
    endpoint.close()
    for each in (far, fd, reading):
        os.close(each)


# ---- the caller's descriptors ---------------------------------------------------------------


def flags(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL)


@pytest.mark.parametrize("writing", [True, False])
def test_the_callers_descriptors_keep_their_flags(writing: bool) -> None:
    left, right = socket.socketpair()
    ends = [*os.pipe(), left.fileno(), right.fileno(), *os.openpty()]
    fds = [fd for fd in ends if writing or (flags(fd) & os.O_ACCMODE) != os.O_WRONLY]
    fds = [fd for fd in fds if not writing or (flags(fd) & os.O_ACCMODE) != os.O_RDONLY]
    before = [flags(fd) for fd in fds]
    endpoints = [Endpoint(fd, writing=writing) for fd in fds]
    for endpoint in endpoints:
        if writing:
            endpoint.write(memoryview(b"x" * 9999))
        elif not endpoint.is_tty:
            assert endpoint.read() is None  # nothing there, and it does not wait
    assert [flags(fd) for fd in fds] == before
    for endpoint in endpoints:
        endpoint.close()
    left.close()
    right.close()
    for fd in (ends[0], ends[1], *ends[4:]):
        os.close(fd)


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_a_full_target_does_not_block(kind: str) -> None:
    if kind == "pipe":
        far, near = os.pipe()
    elif kind == "socket":
        ends = socket.socketpair()
        far, near = (end.detach() for end in ends)
    else:
        far, near = os.openpty()
    endpoint = Endpoint(near, writing=True)
    for _ in range(1000):
        if not endpoint.write(memoryview(b"x" * 65536)):
            break
    else:
        raise AssertionError("it takes everything")
    endpoint.close()
    os.close(far)
    os.close(near)


def test_a_pipe_that_may_not_be_opened_anew_is_written_in_small_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_path: str, _mode: int) -> int:
        raise PermissionError(13, "permission denied")

    far, near = os.pipe()
    with monkeypatch.context() as patch:
        patch.setattr("sandbox.runtime.endpoint.os.open", refuse)
        endpoint = Endpoint(near, writing=True)
    assert endpoint.write(memoryview(b"x" * 65536)) == select.PIPE_BUF
    assert os.get_blocking(endpoint.fd)
    endpoint.close()
    os.close(far)
    os.close(near)


def test_a_closed_descriptor_is_no_endpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo", os.O_RDWR)
    near = os.open(tmp_path / "fifo", os.O_WRONLY)
    os.close(fd)
    endpoint = open_endpoint(near, writing=True)  # a named pipe without readers
    assert endpoint is not None
    with pytest.raises(BrokenPipeError):
        endpoint.write(memoryview(b"x"))
    endpoint.close()
    os.close(near)
    assert open_endpoint(near, writing=True) is None


def test_reading_a_directory_is_an_empty_input(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    endpoint = Endpoint(fd, writing=False)
    assert endpoint.read() == b""
    endpoint.close()
    os.close(fd)

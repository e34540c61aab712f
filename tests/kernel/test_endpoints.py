"""What the launcher opens in a network namespace, and hands out before the payload runs."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.errors import SbxError, SetupError
from sandbox.linux import netlink
from sandbox.plan import network as modes
from sandbox.plan import ops
from sandbox.plan.request import Step
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.policy.model import Policy
from sandbox.runtime.session import RunOptions, run_session
from sandbox.runtime.task import Task
from sandbox.services.network import DRIVERS, Network

TUNGETIFF = 0x800454D2
TUN_FLAGS = 0x1 | 0x1000 | 0x4000  # IFF_TUN, IFF_NO_PI, IFF_VNET_HDR
INDEX = 77
ADDRESS = bytes([10, 0, 2, 100])


class Taker(Network):
    """A driver that takes what is handed out and looks at it."""

    def __init__(self) -> None:
        self.look: Callable[[tuple[int, ...]], None] = lambda _: None
        self.count = -1

    def __call__(self, _policy: Policy, _name: str, _tell: Callable[[str, str], None]) -> Taker:
        return self

    def connect(self, pid: int, descriptors: tuple[int, ...]) -> None:
        """As a driver's handle."""
        assert pid > 0
        self.count = len(descriptors)
        try:
            self.look(descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)


@pytest.fixture
def taker(monkeypatch: pytest.MonkeyPatch) -> Taker:
    found = Taker()
    monkeypatch.setitem(modes.MODES, "none", modes.Mode(namespace=True, service=True))
    monkeypatch.setitem(DRIVERS, "none", found)
    return found


def run(monkeypatch: pytest.MonkeyPatch, rootfs: Path, *operations: ops.Op, argv: str) -> str:
    steps = [Step(op, "test") for op in operations]
    monkeypatch.setattr("sandbox.plan.compile.network_steps", lambda *_: steps)
    monkeypatch.setattr("sandbox.plan.compile._decided", {})
    out = bytearray()
    options = RunOptions(stdout=out, forward_signals=False)
    policy = build_policy([*load_policy("default")])
    report = run_session(policy, Task(str(rootfs), ("sh", "-c", argv)), options)
    assert report.exit_code == 0
    return out.decode()


def sockaddr(address: str, port: int) -> bytes:
    return (
        struct.pack("=H", socket.AF_INET)
        + struct.pack(">H", port)
        + socket.inet_aton(address)
        + bytes(8)
    )


def plain_socket(
    *, options: tuple[int, ...] = (), address: bytes = b"", backlog: int = 0
) -> ops.Socket:
    return ops.Socket(
        "a test's socket", socket.AF_INET, socket.SOCK_STREAM, 0, options, address, backlog
    )


def talk(*messages: bytes) -> ops.Netlink:
    batch = netlink.numbered(messages)
    return ops.Netlink(
        "set the test's network up", netlink.ROUTE, netlink.acknowledged(batch), batch
    )


def test_a_device_with_its_address_is_there_before_the_payload(
    rootfs: Path, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[bytes] = []
    kept: list[int] = []

    def look(descriptors: tuple[int, ...]) -> None:
        kept.append(os.dup(descriptors[0]))  # with its last descriptor the device goes
        asked = fcntl.ioctl(descriptors[0], TUNGETIFF, bytes(40))
        names.append(asked[:16].rstrip(b"\0"))
        assert struct.unpack_from("=H", asked, 16)[0] & TUN_FLAGS == TUN_FLAGS
        assert not os.get_inheritable(descriptors[0])

    taker.look = look
    shown = run(
        monkeypatch,
        rootfs,
        ops.Tun("wire", TUN_FLAGS, INDEX, 7),
        talk(netlink.set_link(INDEX, mtu=9000), netlink.add_address(INDEX, ADDRESS, 24)),
        argv="cat /proc/net/dev /proc/net/fib_trie; ls -l /proc/self/fd",
    )
    os.close(kept.pop())
    assert names == [b"wire"]
    assert "wire:" in shown
    assert "10.0.2.100" in shown
    assert "tun" not in shown.replace("wire", "")  # nothing is left open inside


def test_sockets_are_of_the_namespace_and_keep_their_order(
    rootfs: Path, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, object]] = []

    def look(descriptors: tuple[int, ...]) -> None:
        for fd in descriptors:
            with socket.socket(fileno=os.dup(fd)) as made:
                seen.append((made.getsockopt(socket.SOL_IP, 19), made.getsockname()))
                seen.append((made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), fd >= 3))

    taker.look = look
    transparent = (socket.SOL_IP, 19, 1)  # IP_TRANSPARENT: only for who rules over the namespace
    run(
        monkeypatch,
        rootfs,
        plain_socket(options=transparent, address=sockaddr("192.0.2.7", 1), backlog=16),
        plain_socket(),
        argv="true",
    )
    nowhere = (socket.inet_ntoa(bytes(4)), 0)
    assert seen == [(1, ("192.0.2.7", 1)), (1, True), (0, nowhere), (0, True)]


@pytest.mark.parametrize(
    ("operations", "cause"),
    [
        ((talk(netlink.add_address(INDEX, ADDRESS, 24)),), "no such device"),
        ((talk(netlink.set_link(netlink.LOOPBACK)).replace(answers=2),), "resource temporarily"),
        ((ops.Tun("lo", TUN_FLAGS, INDEX, 0),), "invalid argument"),
        ((ops.Tun("wire", TUN_FLAGS, INDEX, 0x8000),), "invalid argument"),
        (
            (ops.Loopback(), plain_socket(address=sockaddr("192.0.2.7", 1))),
            "cannot assign requested address",
        ),
        ((plain_socket(options=(socket.SOL_IP, 9999, 1)),), "protocol not available"),
        ((plain_socket(),) * 11, "too many open files"),
    ],
)
def test_what_the_kernel_refuses_ends_the_sandbox(
    rootfs: Path,
    taker: Taker,
    monkeypatch: pytest.MonkeyPatch,
    operations: tuple[ops.Op, ...],
    cause: str,
) -> None:
    with pytest.raises(SetupError) as caught:
        run(monkeypatch, rootfs, *operations, argv="true")
    assert cause in (caught.value.cause or "")
    assert taker.count == -1


def test_a_driver_that_raises_leaves_nothing_open(
    rootfs: Path, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(_descriptors: tuple[int, ...]) -> None:
        raise SbxError("the test ends it")

    taker.look = look
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SbxError, match="the test ends it"):
        run(monkeypatch, rootfs, plain_socket(), argv="true")
    assert set(os.listdir("/proc/self/fd")) == before

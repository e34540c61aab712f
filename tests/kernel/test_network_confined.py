"""The supervisor: what it gave up, whom it ends with, and what floods do to others."""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from sandbox.services.network.user import packets
from tests.support.netspace import DNS4, GATEWAY4, PATHS, Space, space

ATTEMPTS = """
import ctypes, json, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
from sandbox.services.network.user import confine
opened = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY)
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
most = confine.limit_resources()
confine.confine()
found = {"descriptors": most}
def attempt(name, call):
    try:
        call()
        found[name] = 0
    except OSError as error:
        found[name] = error.errno
    except ValueError:  # what the module resource makes of EPERM
        found[name] = 1
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "call")
attempt("open", lambda: os.open("/etc/passwd", os.O_RDONLY))
attempt("open at a folder that it held", lambda: os.open("x", os.O_RDONLY, dir_fd=opened))
attempt("create", lambda: os.open("/tmp/sbx-test-nothing", os.O_CREAT | os.O_WRONLY))
attempt("unlink", lambda: os.unlink("/tmp/sbx-test-nothing"))
attempt("stat", lambda: os.listdir("/"))
attempt("fork", os.fork)
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
attempt("kill", lambda: os.kill(os.getppid(), 0))
attempt("unix socket", lambda: socket.socket(socket.AF_UNIX))
attempt("unix pair", socket.socketpair)
attempt("netlink socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("listen", lambda: socket.socket().listen())
attempt("executable memory", lambda: check(
    -1 if libc.mmap(None, 4096, 7, 0x22, -1, 0) in (-1, 0xffffffffffffffff) else 0))
attempt("mprotect", lambda: check(libc.mprotect(ctypes.c_void_p(0x1000), 4096, 4)))
attempt("memfd", lambda: os.memfd_create("x"))
attempt("ptrace", lambda: check(libc.ptrace(16, os.getppid(), 0, 0)))
attempt("unshare", lambda: check(libc.unshare(0x10000000)))
attempt("setns", lambda: check(libc.setns(opened, 0)))
attempt("chdir", lambda: os.chdir("/"))
attempt("more descriptors", lambda: __import__("resource").setrlimit(7, (most + 1, most + 1)))
attempt("setuid", lambda: os.setuid(0))
def reach():
    with socket.socket() as sock:
        sock.settimeout(5)
        sock.connect(server.getsockname())
        taken, _ = server.accept()
        taken.setblocking(False)
        sock.sendall(b"x")
        sock.shutdown(socket.SHUT_WR)
        taken.close()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("::1", 9))
attempt("reach", reach)
print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def attempts() -> dict[str, int]:
    code = f"import sys; sys.path[:0] = {PATHS!r}\n{ATTEMPTS}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return dict(json.loads(done.stdout))


def test_it_can_do_what_it_is_for(attempts: dict[str, int]) -> None:
    assert attempts["reach"] == 0


def test_it_can_do_nothing_else(attempts: dict[str, int]) -> None:
    wrong = {
        name: number
        for name, number in attempts.items()
        if name not in ("reach", "descriptors") and number != errno.EPERM
    }
    assert not wrong


def test_the_running_one_is_confined() -> None:
    with space() as net:
        pid = net.supervisor.pid
        with open(f"/proc/{pid}/status") as status:
            text = status.read()
        values = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert values["NoNewPrivs"] == "1"
        assert values["Seccomp"] == "2"
        assert int(values["CapEff"], 16) == int(values["CapPrm"], 16) == 0
        # Not dumpable: nobody of the same user reads its memory or takes its descriptors.
        if os.geteuid() != 0:  # root may always
            with pytest.raises(PermissionError):
                os.listdir(f"/proc/{pid}/fd")
        assert net.rss_mib() < 25


def test_it_ends_with_the_sandbox() -> None:
    with space(ends=0):
        pass


def test_the_sandbox_goes_on_without_it() -> None:
    with (
        space(ends=-signal.SIGKILL) as net,
        socket.create_server(("127.0.0.1", 0)) as server,
        net.tcp() as sock,
    ):
        port = server.getsockname()[1]
        sock.connect((GATEWAY4, port))
        outer = server.accept()[0]
        net.supervisor.send_signal(signal.SIGKILL)
        net.supervisor.wait(20)
        for end in (outer, sock):
            end.settimeout(20)
            # An end or a reset, by what was under way.
            with contextlib.suppress(ConnectionResetError):
                assert end.recv(1) == b""
        with net.tcp() as later:
            assert later.connect_ex((GATEWAY4, port)) in (errno.ENETUNREACH, errno.EHOSTUNREACH)
        assert net.run(["echo", "alive"]).stdout == "alive\n"
        outer.close()


def test_who_started_it_may_go() -> None:
    with (
        space() as net,
        socket.create_server(("127.0.0.1", 0)) as server,
        net.tcp() as sock,
    ):
        net.control.close()
        sock.connect((GATEWAY4, server.getsockname()[1]))


def test_denials_are_told_when_asked_for() -> None:
    with space((), debug=True) as net, net.tcp() as sock:
        assert sock.connect_ex(("198.51.100.9", 25)) == errno.EHOSTUNREACH
        assert net.control.recv(1000) == b"denied: 198.51.100.9:25/tcp (not listed)"


def raw(net: Space) -> socket.socket:
    made = net.make(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    made.setblocking(False)
    return made


def syn(source: bytes, sport: int, target: bytes, dport: int) -> bytes:
    segment = bytearray(struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 5 << 4, 2, 1000, 0, 0))
    total = packets.ones(segment) + packets.pseudo(source, target, packets.TCP, 20)
    segment[16:18] = (0xFFFF - total % 0xFFFF).to_bytes(2, "big")
    return packets.ip_header(source, target, packets.TCP, 20) + segment


def flood(sock: socket.socket, some: list[bytes]) -> None:
    for packet in some:
        while True:
            try:
                sock.sendto(packet, (GATEWAY4, 0))
                break
            except OSError:
                # The device's queue is full (ENOBUFS).
                select.select([], [sock], [], 0.01)


@pytest.fixture
def neighbour() -> Iterator[Space]:
    with space() as made:
        yield made


def assert_works(net: Space, server: socket.socket, deadline_s: float = 5) -> None:
    end = time.monotonic() + deadline_s
    while True:
        with net.tcp() as sock:
            sock.settimeout(max(0.1, end - time.monotonic()))
            sock.connect((GATEWAY4, server.getsockname()[1]))
            outer, peer = server.accept()
            if sock.getsockname() is not None:
                sock.sendall(b"mine")
            outer.settimeout(2)
            # What a flood has opened stands in the same queue.
            with outer:
                try:
                    if outer.recv(4) == b"mine":
                        return
                except (TimeoutError, ConnectionError):
                    pass
        assert time.monotonic() < end, peer


@pytest.mark.parametrize("hole", [False, True], ids=["open port", "black hole"])
def test_a_flood_of_connections_hurts_nobody_else(neighbour: Space, hole: bool) -> None:
    limits = {"pending": 200}
    with (
        space(limits=limits) as net,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket() as flooded,
        raw(net) as sock,
    ):
        flooded.bind(("127.0.0.1", 0))
        flooded.listen(0 if hole else 4096)
        port = flooded.getsockname()[1]
        own, gateway = socket.inet_aton("10.0.2.100"), socket.inet_aton(GATEWAY4)
        for batch in range(10):
            flood(sock, [syn(own, 1000 + batch * 1000 + n, gateway, port) for n in range(1000)])
            assert_works(neighbour, server)
        found = net.wait_account(lambda account: account["dropped"])
        assert found["dropped"]["pending connections"] > 1000
        assert net.rss_mib() < 25
        assert len(os.listdir(f"/proc/{net.supervisor.pid}/task")) == 1
        if not hole:
            # Its own connections go again once the forged ones have been given up.
            assert_works(net, server, 25)


def test_a_flood_of_datagrams_hurts_nobody_else(neighbour: Space) -> None:
    with (
        space(limits={"flows": 100}) as net,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        raw(net) as sock,
    ):
        sink.bind(("127.0.0.1", 0))
        own, gateway = socket.inet_aton("10.0.2.100"), socket.inet_aton(GATEWAY4)
        port = sink.getsockname()[1]
        for batch in range(10):
            some = [
                packets.udp_header(own, 1000 + batch * 2000 + n, gateway, port, 4) + b"junk"
                for n in range(2000)
            ]
            flood(sock, [packet[packets.VNET_SIZE :] for packet in some])
            assert_works(neighbour, server)
        assert_works(net, server)
        dropped = net.wait_account(lambda account: account["dropped"])["dropped"]
        assert dropped.get("flows", 0) + dropped.get("flow rate", 0) > 1000
        assert net.rss_mib() < 25


def attempt(call: Callable[[], bytes]) -> bytes:
    try:
        return call()
    except OSError:
        return b""


@pytest.mark.parametrize("kind", ["out", "in", "datagrams", "names"])
def test_without_watches_it_goes_on(kind: str) -> None:
    """They are counted for the user: other sandboxes can use them up."""
    with socket.create_server(("127.0.0.1", 0)) as host, socket.socket(type=2) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(2)
        port = host.getsockname()[1]
        published = [(host, 80)] if kind == "in" else []
        with space(limits={"scarce": 1}, published=published) as net:
            inside = net.tcp()
            inside.bind(("10.0.2.100", 80))
            inside.listen()
            inside.settimeout(2)
            host.settimeout(2)

            def through(sock: socket.socket, listener: socket.socket) -> bytes:
                with sock, listener.accept()[0] as other:
                    other.settimeout(2)
                    sock.settimeout(2)
                    other.sendall(b"x")
                    return sock.recv(1)

            def outward() -> bytes:
                sock = net.tcp()
                sock.settimeout(3)
                sock.connect((GATEWAY4, port))
                return through(sock, host)

            def inward() -> bytes:
                return through(socket.create_connection(("127.0.0.1", port), 2), inside)

            def datagram() -> bytes:
                with net.udp() as sock:
                    sock.sendto(b"x", (GATEWAY4, sink.getsockname()[1]))
                    return sink.recv(9)

            def name() -> bytes:
                with net.tcp() as sock:
                    sock.settimeout(2)
                    sock.connect((DNS4, 53))
                    sock.sendall(b"\0\1x")
                    return sock.recv(100)[-1:]

            calls = {
                "out": outward,
                "in": inward,
                "datagrams": datagram,
                "names": name,
            }
            found = [attempt(calls[kind]) for _ in range(8)]
            assert b"x" in found
            assert b"" in found
            assert net.supervisor.poll() is None
            inside.close()


def test_the_rate_of_connections_is_bounded() -> None:
    with space(limits={"connections_per_second": 1}) as net:
        with socket.create_server(("127.0.0.1", 0)) as server:
            place = GATEWAY4, server.getsockname()[1]
            made = 0
            for _ in range(70):
                with net.tcp() as sock:
                    sock.settimeout(0.2)
                    try:
                        sock.connect(place)
                        made += 1
                    except TimeoutError:
                        break
            # The burst, and one a second.
            assert 64 <= made < 70
        found = net.wait_account(lambda account: account["dropped"])
        assert found["dropped"] == {"connection rate": 1}

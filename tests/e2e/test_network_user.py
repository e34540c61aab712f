"""`--network user`: a sandbox reaches what is allowed, and nothing else; ports lead into it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import sandbox
from tests.conftest import Sbx

PYTHON = (os.path.realpath(sys.executable), "-I", "-S", "-c")
GATEWAY = "10.0.2.2"
# connect(2)'s errno, or what the other end sends.
ASK = """
import errno, socket, sys
def ask(host, port, kind=socket.SOCK_STREAM, family=socket.AF_INET):
    with socket.socket(family, kind) as s:
        s.settimeout(10)
        try:
            s.connect((host, port))
            s.sendall(b"hello")
            return s.recv(100).decode()
        except socket.timeout:
            return "timeout"
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))
def shown(*words):
    print(*words, flush=True)
"""


@contextmanager
def serving(
    answer: Callable[[socket.socket, Any], None], address: str = "127.0.0.1"
) -> Iterator[int]:
    """A server on the host's loopback; `answer` gets each connection."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, peer = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(connection, peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def echo(connection: socket.socket, _peer: Any) -> None:
    """Send back what comes first."""
    connection.sendall(connection.recv(1000).upper())


def closed_port() -> int:
    """A port of the host's loopback where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def run(sbx: Sbx, tmp_path: Path) -> Callable[..., tuple[list[str], dict[str, Any], str]]:
    """Run Python code inside; its lines, the account of the network, what sbx said."""

    def start(
        code: str, *options: object, policy: str = "default"
    ) -> tuple[list[str], dict[str, Any], str]:
        report = tmp_path / "report.json"
        words = ("run", "--policy", policy, "--network", "user", "--report", report, *options)
        done = sbx(*words, "/", *PYTHON, ASK + code)
        assert done.returncode == 0, done.stderr
        found = json.loads(report.read_text())["network_account"]
        return done.stdout.splitlines(), found, done.stderr

    return start


Run = Callable[..., tuple[list[str], dict[str, Any], str]]


@pytest.mark.parametrize("policy", ["strict", "default", "ci"])
def test_what_is_allowed_is_reached_and_nothing_else(run: Run, policy: str) -> None:
    closed = closed_port()
    with serving(echo) as port, serving(echo) as other:
        lines, account, _ = run(
            f"shown(*[ask({GATEWAY!r}, port) for port in ({port}, {closed}, {other})],"
            f" ask('192.168.77.7', 80), ask('169.254.169.254', 80), ask('127.0.0.1', {port}))",
            *("--allow", f"host:{port}", "--allow", f"host:{closed}"),
            policy=policy,
        )
    assert lines == ["HELLO ECONNREFUSED EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH ECONNREFUSED"]
    assert account["lost"] == ""
    row = account["destinations"][0]
    assert (row["address"], row["port"], row["connections"]) == (GATEWAY, port, 1)
    assert (row["sent_bytes"], row["received_bytes"]) == (5, 5)
    denied = {(row["address"], row["port"]) for row in account["denied"]}
    assert denied == {(GATEWAY, other), ("192.168.77.7", 80), ("169.254.169.254", 80)}


def test_ipv6_and_names_of_the_host(run: Run) -> None:
    with serving(echo, "::1") as port:
        lines, account, _ = run(
            f"shown(ask('fd00:73:6278::2', {port}, family=socket.AF_INET6))\n"
            f"shown(ask('host.internal', {port}, family=socket.AF_INET6))\n"
            "try: shown(socket.getaddrinfo('not.listed.example', 80))\n"
            "except socket.gaierror: shown('no such name')\n",
            *("--allow", f"host:{port}"),
        )
    assert lines == ["HELLO", "HELLO", "no such name"]
    assert account["refused_names"][0]["name"] == "not.listed.example"


def test_denials_are_told_as_they_come(run: Run) -> None:
    code = (
        "shown(ask('192.168.77.7', 80))\n"
        "try: socket.getaddrinfo('not.listed.example', 80)\n"
        "except socket.gaierror: pass\n"
    )
    _, _, told = run(code, "--debug")
    assert "the network denied: 192.168.77.7:80/tcp (private)" in told
    assert told.count("the network denied: the name not.listed.example") == 1
    _, _, told = run(code)
    assert "denied" not in told


def test_people_read_it_in_the_report(sbx: Sbx, debian: Path) -> None:
    code = "import socket; socket.create_connection(('192.168.77.7', 80))"
    words = ("--network", "user", "--report", "-", debian, "python3", "-c", code)
    told = sbx("run", *words).stderr
    assert "sbx: denied  192.168.77.7:80/tcp (private)\n" in told


def test_deny_wins_over_allow(run: Run) -> None:
    with serving(echo) as port:
        lines, _, _ = run(
            f"shown(ask({GATEWAY!r}, {port}))",
            *("--allow", f"host:{port}", "--deny", f"host:{port}"),
        )
    assert lines == ["EHOSTUNREACH"]


def test_what_is_inside_is_ours(run: Run) -> None:
    lines, _, _ = run(
        "for path in ('/etc/resolv.conf', '/etc/hosts'): shown(open(path).read())\n"
        "import socket, fcntl, struct\n"
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n"
        "    answer = fcntl.ioctl(s, 0x8921, struct.pack('16s16x', b'tun0'))\n"
        "    shown('mtu', struct.unpack_from('i', answer, 16)[0])\n"
        "shown(socket.if_nameindex())",
    )
    text = "\n".join(lines)
    assert "nameserver 10.0.2.3\n" in text
    assert "10.0.2.2 host host.internal" in text
    assert "mtu 65520" in text
    assert "[(1, 'lo'), (64, 'tun0')]" in text


def test_published_ports_lead_inside(sbx: Sbx) -> None:
    port = closed_port()
    code = (
        "listener = socket.create_server(('0.0.0.0', 8080))\n"
        "connection, peer = listener.accept()\n"
        "connection.sendall(peer[0].encode() + b' ' + connection.recv(100))\n"
    )
    words = ("--network", "user", "-p", f"{port}:8080", "/", *PYTHON, ASK + code)
    started = sbx.start("run", *words)
    try:
        answer = b""
        deadline = time.monotonic() + 30
        while not answer and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                    client.sendall(b"hello")
                    answer = client.recv(100)
            except ConnectionError:
                time.sleep(0.05)  # nothing listens yet
        assert answer == f"{GATEWAY} hello".encode()
        assert started.wait(30) == 0
    finally:
        started.kill()
        started.communicate()


def test_published_datagrams_lead_inside(sbx: Sbx) -> None:
    """Each client has its own answers."""
    code = (
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n"
        "    s.bind(('0.0.0.0', 5353)); shown('ready')\n"
        "    while True:\n"
        "        message, peer = s.recvfrom(100)\n"
        "        s.sendto(peer[0].encode() + b' ' + message.upper(), peer)\n"
    )
    words = ("-d", "--network", "user", "-p", "127.0.0.1:0:5353/udp")
    done = sbx("run", *words, "/", *PYTHON, ASK + code)
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    try:
        (shown,) = sbx("port", name).stdout.splitlines()
        port = int(shown.rpartition(":")[2])
        assert sbx("port", name, "5353/udp").stdout == f"127.0.0.1:{port}\n"
        other = sbx("port", name, "5353")
        assert (other.returncode, other.stdout) == (125, "")
        assert " is not published" in other.stderr
        deadline = time.monotonic() + 30
        while sbx("logs", name).stdout != "ready\n":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for number, client in enumerate(clients):
            client.settimeout(30)
            client.connect(("127.0.0.1", port))
            client.send(b"hello %d" % number)
        for number, client in enumerate(clients):
            assert client.recv(100) == f"{GATEWAY} HELLO {number}".encode()
        shown = sbx("inspect", "--format", "text", name).stdout
        assert "{" not in shown
    finally:
        for client in clients:
            client.close()
        assert sbx("rm", "-f", name).returncode == 0


def test_stats_count_what_the_process_beside_it_carries(sbx: Sbx) -> None:
    def swallow(connection: socket.socket, _peer: Any) -> None:
        left = 100_000
        while left and (part := connection.recv(min(left, 1 << 16))):
            left -= len(part)
        connection.sendall(bytes(30_000))

    code = (
        "with socket.create_connection(('host', int(sys.argv[1]))) as s:\n"
        "    s.sendall(bytes(100_000))\n"
        "    while s.recv(1 << 16): pass\n"
        "import time; time.sleep(1000)\n"
    )
    with serving(swallow) as port:
        words = ("-d", "--network", "user", "--allow", f"host:{port}")
        done = sbx("run", *words, "/", *PYTHON, ASK + code, port)
        assert done.returncode == 0, done.stderr
        name = done.stdout.strip()
        try:
            found, deadline = (0, 0), time.monotonic() + 30
            while found != (30_000, 100_000) and time.monotonic() < deadline:
                (row,) = json.loads(sbx("stats", "--no-stream", "--format", "json", name).stdout)
                found = row["received_bytes"], row["sent_bytes"]
            assert found == (30_000, 100_000)
        finally:
            assert sbx("rm", "-f", name).returncode == 0


def test_a_busy_port_is_an_error_before_anything_is_made(sbx: Sbx, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        done = sbx("run", "--network", "user", "-p", f"{port}:80", "/", "touch", tmp_path / "x")
    assert done.returncode == 125
    assert f"sbx: error: cannot publish 127.0.0.1:{port} ({port}:80)\n" in done.stderr
    assert done.stderr.count("cause: ") == 1
    assert "  cause: address already in use\n" in done.stderr
    assert not (tmp_path / "x").exists()


def test_in_the_background(sbx: Sbx) -> None:
    """The network stays without a Python of ours that waits; port and inspect know of it."""
    words = ("-d", "--network", "user", "-p", "0:8080", "-p", "127.0.0.1:0:5353/udp")
    code = (
        "listener = socket.create_server(('0.0.0.0', 8080))\n"
        "while True:\n"
        "    connection, _ = listener.accept()\n"
        "    connection.sendall(connection.recv(100).upper()); connection.close()\n"
    )
    done = sbx("run", *words, "/", *PYTHON, ASK + code)
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    try:
        ports = sbx("port", name).stdout.splitlines()
        assert [line.split(" -> ")[0] for line in ports] == ["8080/tcp", "5353/udp"]
        port = int(ports[0].rpartition(":")[2])
        deadline, answer = time.monotonic() + 30, b""
        while not answer and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                    client.sendall(b"hello")
                    answer = client.recv(100)
            except ConnectionError:
                time.sleep(0.05)
        assert answer == b"HELLO"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            (known,) = json.loads(sbx("inspect", name).stdout)
            counted = known["network_account"]["published"]
            if any(row["connections"] for row in counted):
                break
            time.sleep(0.1)
        assert known["ports"][0] == {
            "protocol": "tcp", "address": "127.0.0.1", "port": port, "inner": 8080,
        }  # fmt: skip
        assert any(row["connections"] for row in counted)
    finally:
        assert sbx("rm", "-f", name).returncode == 0
    for _ in range(200):  # the process beside it ends a moment after the sandbox
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.02)
    pytest.fail("the published port outlives the sandbox")


def supervisor_of(pid: int) -> int:
    """The process beside a session that carries its network."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        if b"network.user" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError(f"none of {children}")


def test_without_its_process_the_job_goes_on(sbx: Sbx, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    code = (
        "shown('ready'); sys.stdin.readline()\n"
        "deadline = 100\n"
        "while deadline and 'tun0' in open('/proc/net/dev').read():\n"
        "    import time; time.sleep(0.1); deadline -= 1\n"
        "shown(ask('10.0.2.2', 9))\n"
    )
    words = ("run", "-i", "--network", "user", "--report", report, "/", *PYTHON, ASK + code)
    started = sbx.start(*words)
    assert started.stdout
    assert started.stdin
    try:
        assert started.stdout.readline() == b"ready\n"
        os.kill(supervisor_of(started.pid), signal.SIGKILL)
        out, err = started.communicate(b"go\n", timeout=60)
    finally:
        started.kill()
    assert started.returncode == 0
    assert out == b"ENETUNREACH\n"
    assert b"the sandbox goes on without its network: its process has ended" in err
    assert json.loads(report.read_text())["network_account"]["lost"] == "its process has ended"


def test_a_process_that_never_serves_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "import os, select; select.select([3], [], []); os._exit(1)"
    monkeypatch.setattr("sandbox.services.network.user.driver._CHILD", broken)
    # The device goes with what was sent to the process, after its end of the channel.
    until_lost = "while grep -q tun0 /proc/net/dev; do sleep 0.02; done"
    done = sandbox.run(["sh", "-c", until_lost], rootfs="/", policy="default", network="user")
    assert done.returncode == 0
    assert done.report.network_account
    assert done.report.network_account["lost"] == "its process has ended"


def test_nothing_of_it_stays(sbx: Sbx) -> None:
    words = ("run", "--network", "user", "/", "sh", "-c", "sleep 100")
    started = sbx.start(*words)
    try:
        deadline = time.monotonic() + 30
        beside = 0
        while not beside and time.monotonic() < deadline:
            try:
                beside = supervisor_of(started.pid)
            except AssertionError:
                time.sleep(0.02)
        pidfd = os.pidfd_open(beside)
        started.kill()
        started.wait(30)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        assert poller.poll(30_000), "the process that carried the network lives on"
        os.close(pidfd)
    finally:
        started.kill()
        started.communicate()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--allow", "example.org:443"),
            'needs network.mode = "user" or "bridge", and it is "none" (from default.toml); '
            "add --network user",
        ),
        (("--network-alias", "web"), 'needs network.mode = "bridge", and it is "none"'),
        (("--network", "user", "--net-rate", "10M"), 'needs network.mode = "bridge"'),
        (("--network", "user", "--allow", "exa_mple..org"), "--allow: "),
        (("--network", "user", "--allow", "host"), "write host:PORT"),
        (("--network", "user", "-p", "80"), "--publish: must be [IP:]HOSTPORT:PORT"),
        (("--network", "user", "--dns", "here"), "--dns: must be the address of a name server"),
        (("--network", "user", "-d", "--restart", "on-failure"), "--restart cannot be used"),
    ],
)
def test_bad_wishes_are_refused(sbx: Sbx, words: tuple[str, ...], said: str) -> None:
    done = sbx("run", *words, "/", "true")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert sbx("ps", "-a", "--format", "json").stdout.strip() in ("", "[]")


def test_the_plan_shows_it(sbx: Sbx) -> None:
    shown = sbx("explain", "--policy", "strict", "--network", "user", "/", "true").stdout
    for line in (
        "make the network device tun0",
        "give tun0 10.0.2.100",
        "turn TCP that leaves back to a transparent listener",
        "listen for connections that leave by IPv6",
        "wait until what runs beside the sandbox is ready",
    ):
        assert line in shown, line
    assert "--network" in next(line for line in shown.splitlines() if "device tun0" in line)


def test_a_landlock_rule_of_ones_own_stays(sbx: Sbx, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('extends = "strict"\nnetwork.mode = "user"\nlandlock.tcp = true\n')
    done = sbx("run", "--policy", own, "/", *PYTHON, ASK + "shown(ask('10.0.2.2', 9))")
    assert done.stdout == "EACCES\n"
    assert "TCP is refused inside, also with --network user" in done.stderr


def children() -> set[str]:
    """The processes that this one has started and not reaped."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_from_python() -> None:
    """A run, and boxes for several commands; nothing of either stays with the caller."""
    before = children()
    with serving(echo) as port:
        code = [*PYTHON, ASK + f"shown(ask('host', {port}), ask('host', 9))"]
        wishes: Any = {"rootfs": "/", "policy": "default", "network": "user"}
        wishes["allow"] = [f"host:{port}"]
        done = sandbox.run(code, capture_output=True, text=True, **wishes)
        assert done.stdout == "HELLO EHOSTUNREACH\n"
        assert done.report.network_account
        assert done.report.network_account["denied"][0]["port"] == 9
        assert len(children() - before) <= 1  # which is on its way out
        for _ in range(3):
            with sandbox.Sandbox(**wishes, publish=["0:80"]) as box:
                told: Any = box.report()
                (row,) = told["ports"]
                assert (row["inner"], row["port"] > 0) == (80, True)
                for _ in range(2):
                    found = box.run(code, capture_output=True, text=True)
                    assert found.stdout == "HELLO EHOSTUNREACH\n"
    deadline = time.monotonic() + 30
    while len(children() - before) > 1 and time.monotonic() < deadline:
        time.sleep(0.2)
        sandbox.run(["true"], **wishes)  # the next one reaps those that have ended
    assert len(children() - before) <= 1

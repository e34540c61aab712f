"""What no name, no spelling of an address and no question may lead to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import Sbx
from tests.support import apt_mirror, capabilities
from tests.support.name_server import Directory, directory

UNSPECIFIED = "0.0.0.0"  # noqa: S104
# Tries to reach each (place, port), over TCP and UDP; prints what came of it.
REACH = """
import json, socket, sys
found = {}
for place, port in json.loads(sys.argv[1]):
    for kind, word in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
        said = "no address"
        try:
            where = socket.getaddrinfo(place, port, 0, kind)
        except OSError:
            where = []
        for family, _, _, _, address in where:
            with socket.socket(family, kind) as sock:
                sock.settimeout(0.7)
                try:
                    sock.connect(address)
                    sock.send(b"x")
                    said = sock.recv(10).decode()
                except OSError as error:
                    said = type(error).__name__
        found[f"{place} {word}"] = said
print(json.dumps(found))
"""
# Asks the name server of the sandbox, and others, by hand.
ASK = """
import json, socket, sys
codes = []
for server, name in json.loads(sys.argv[1]):
    head = bytes.fromhex("000701000001000000000000")
    message = head + bytes.fromhex(name) + bytes.fromhex("00010001")
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.settimeout(2)
            try:
                sock.connect((server, 53))
                stream = kind == socket.SOCK_STREAM
                sock.send((len(message).to_bytes(2, "big") if stream else b"") + message)
                codes.append(sock.recv(4096)[5 if stream else 3] & 15)
            except OSError as error:
                codes.append(type(error).__name__)
print(json.dumps(codes))
"""


@pytest.fixture(autouse=True)
def _python() -> None:
    if missing := capabilities.program("/usr/bin/python3"):
        pytest.skip(missing)


@pytest.fixture
def names() -> Iterator[Directory]:
    """A name server that says what the test wants."""
    with directory() as found:
        yield found


@pytest.fixture
def secret() -> Iterator[int]:
    """The port of a service of the host, on all its addresses, TCP and UDP: it says "secret"."""
    with (
        socket.socket(socket.AF_INET6) as stream,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as packets,
    ):
        for sock in (stream, packets):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        stream.bind(("::", 0))
        stream.listen()
        port: int = stream.getsockname()[1]
        packets.bind(("::", port))

        def serve_streams() -> None:
            while True:
                try:
                    peer, _ = stream.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"secret")

        def serve_packets() -> None:
            while True:
                data, client = packets.recvfrom(100)
                if data == b"end":
                    return
                packets.sendto(b"secret", client)

        threads = [
            threading.Thread(target=each, daemon=True) for each in (serve_streams, serve_packets)
        ]
        for thread in threads:
            thread.start()
        yield port
        stream.shutdown(socket.SHUT_RDWR)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", ("127.0.0.1", port))
        for thread in threads:
            thread.join()


@pytest.fixture
def run(sbx: Sbx, tmp_path: Path) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Run one of the scripts; (what it found, the account of the network)."""

    def run(script: str, wish: object, *options: str) -> tuple[Any, dict[str, Any]]:
        report = tmp_path / "report.json"
        words = ("run", "--quiet", "--network", "user", "--report", report, *options, "/")
        done = sbx(*words, "/usr/bin/python3", "-I", "-c", script, json.dumps(wish))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), json.loads(report.read_text())["network_account"]

    return run


def own_addresses() -> list[str]:
    """The addresses from which this machine would reach others; nothing is sent."""
    found = []
    for family, other in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((other, 9))
                found.append(str(probe.getsockname()[0]))
            except OSError:
                pass
    return found


@pytest.mark.parametrize("allow", ["*.sbx.example", "public"])
def test_no_name_and_no_spelling_leads_to_the_host(
    run: Callable[..., Any], names: Directory, secret: int, allow: str
) -> None:
    own = own_addresses()
    targets = [
        *own,
        "10.0.2.2",
        "fd00:73:6278::2",
        "127.0.0.1",
        UNSPECIFIED,
        "::1",
        "169.254.169.254",
    ]
    wish = []
    for number, target in enumerate(targets):
        names.addresses[f"n{number}.sbx.example"] = [target]
        wish.append((f"n{number}.sbx.example", secret))
    plain = [address for address in own if ":" not in address]
    wish += [(f"::ffff:{address}", secret) for address in (*plain, "10.0.2.2", "127.0.0.1")]
    spellings = ["::", "::127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::", "127.1", "0", "0x7f.1"]
    wish += [(address, secret) for address in (*targets, *spellings)]
    found, account = run(REACH, wish, "--allow", allow, "--dns", names.place)
    assert len(found) == 2 * len({place for place, _ in wish})
    assert not [place for place, said in found.items() if "secret" in said]
    rules = {row["rule"] for row in account["denied"]}
    assert "the host's own" in rules
    named = {row["name"] for row in account["denied"]}
    assert {f"n{number}.sbx.example" for number in range(len(own))} <= named


def test_the_service_is_there(run: Callable[..., Any], secret: int) -> None:
    found, account = run(REACH, [("host", secret)], "--allow", f"host:{secret}")
    assert found == {"host tcp": "secret", "host udp": "secret"}
    assert account["denied"] == []


def wire(*labels: bytes) -> str:
    return (b"".join(bytes([len(label)]) + label for label in labels) + b"\0").hex()


def test_names_that_are_not_listed_never_leave(run: Callable[..., Any], names: Directory) -> None:
    names.addresses["good.sbx.example"] = ["198.51.100.7"]
    refused = [
        wire(b"secret-data", b"evil", b"example"),
        wire(b"sbx", b"example"),
        wire(b"evil.good", b"sbx", b"example"),
        wire(b"good.sbx", b"example"),
        wire(b"evil\0", b"sbx", b"example"),
        wire(b"evil \xff", b"sbx", b"example"),
        wire(b"printer", b"local"),
        wire(b"metadata", b"internal"),
    ]
    wish = [("10.0.2.3", name) for name in refused]
    wish.append(("10.0.2.3", wire(b"good", b"SBX", b"example")))
    codes, account = run(ASK, wish, "--allow", "*.sbx.example:443", "--dns", names.place)
    assert codes == [5] * 2 * len(refused) + [0, 0]
    assert names.asked == ["good.sbx.example"]
    assert "secret-data.evil.example" in {row["name"] for row in account["refused_names"]}


def test_no_other_name_server_is_asked(run: Callable[..., Any], names: Directory) -> None:
    name = wire(b"good", b"sbx", b"example")
    servers = ("198.51.100.53", "10.0.2.2", "127.0.0.53")
    codes, account = run(
        ASK,
        [(server, name) for server in servers],
        "--allow",
        "*.sbx.example",
        "--dns",
        names.place,
    )
    assert all(isinstance(code, str) for code in codes), codes
    assert names.asked == []
    assert {"198.51.100.53", "10.0.2.2"} <= {row["address"] for row in account["denied"]}


FIRST = """
import json, socket, ssl, sys
found = []
for address, port, first in json.loads(sys.argv[1]):
    with socket.create_connection((address, port), 10) as sock:
        try:
            if port == 443:
                context = ssl._create_unverified_context()
                with context.wrap_socket(sock, server_hostname=first or None) as secure:
                    found.append("open")
            else:
                lines = "HEAD / HTTP/1.1", f"Host: {first}", "Connection: close", "", ""
                sock.sendall("\\r\\n".join(lines).encode())
                found.append("open" if sock.recv(5) == b"HTTP/" else "closed")
        except OSError as error:
            found.append("closed")
print(json.dumps(found))
"""


def test_a_connection_to_a_listed_name_names_it_itself(
    run: Callable[..., Any], debian_own: Path, tmp_path: Path
) -> None:
    uri = urlsplit(next(apt_mirror.sources(debian_own / "etc" / "apt"))[0])
    name = uri.hostname or ""
    if uri.scheme != "http" or uri.port not in {None, 80}:
        pytest.skip("apt is set up for no mirror at port 80")
    try:
        socket.create_connection((name, 80), timeout=10).close()
    except OSError as error:
        pytest.skip(f"the mirror cannot be reached: {error}")
    policy = tmp_path / "named.toml"
    policy.write_text('extends = "default"\n[network]\nsni = true\n')
    wish = [(name, 80, name), (name, 80, "other.sbx.example"), (name, 80, f"{name}.sbx.example")]
    found, account = run(FIRST, wish, "--policy", str(policy), "--allow", f"{name}:80")
    assert found == ["open", "closed", "closed"]
    assert {(row["name"], row["port"]) for row in account["denied"]} == {(name, 80)}
    found, _ = run(FIRST, wish, "--allow", f"{name}:80")
    assert found == ["open", "open", "open"]

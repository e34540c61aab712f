"""`--network pasta` and `--network slirp4netns`: all is reached but loopback, and it is said."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Sbx
from tests.support import capabilities

MODES = ("pasta", "slirp4netns")
PYTHON = os.path.realpath(sys.executable)
PORT, OPEN = 8099, 7001
OUTSIDE, LOOPBACK, ROUTER = "203.0.113.5", "127.0.0.1", "198.51.100.2"
OUTSIDE6, LOOPBACK6, ROUTER6 = "2001:db8:2::5", "::1", "2001:db8:1::2"
NAME = "some.example"
# A network of the test's own, with servers: one may be reached, those of its loopback not. Its name
# server is one of them.
STAGE = f"""
import os, socket, subprocess, sys, threading
for line in (
    "link set lo up",
    "addr add {OUTSIDE}/32 dev lo",
    "addr add {OUTSIDE6}/128 dev lo nodad",
    "link add d0 type veth peer name d1",
    "addr add 198.51.100.1/24 dev d0",
    "addr add 2001:db8:1::1/64 dev d0 nodad",
    "link set d0 up",
    "link set d1 up",
    "route add default via {ROUTER}",
    "route add default via {ROUTER6}",
):
    subprocess.run(["ip", *line.split()], check=True)
place = os.path.realpath("/etc/resolv.conf")
subprocess.run(["mount", "--bind", sys.argv[1], place], check=True)
def begin(work):
    threading.Thread(target=work, daemon=True).start()
def serve(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, {PORT}), family=family)
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((address, {PORT}))
    def accept():
        while True:
            connection, _ = listener.accept()
            connection.sendall(address.encode())
            connection.close()
    def answer():
        while True:
            datagrams.sendto(address.encode(), datagrams.recvfrom(100)[1])
    begin(accept)
    begin(answer)
def names():
    while True:
        asked, who = server.recvfrom(512)
        question = asked[12:]
        kind = question[question.index(bytes(1)) + 2]
        question = question[: question.index(bytes(1)) + 5]
        address = socket.inet_aton("{OUTSIDE}")
        row = bytes((0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4)) + address
        many = bytes((0x81, 0x80, 0, 1, 0, int(kind == 1), 0, 0, 0, 0))
        server.sendto(asked[:2] + many + question + row * (kind == 1), who)
for each in ("{OUTSIDE}", "{OUTSIDE6}", "{LOOPBACK}", "{LOOPBACK6}"):
    serve(each)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("{LOOPBACK}", 53))
begin(names)
plain = ("setpriv", "--inh-caps=-all", "--ambient-caps=-all")
sys.exit(subprocess.run([*plain, *sys.argv[2:]]).returncode)
"""
ASKED = (OUTSIDE, OUTSIDE6, LOOPBACK, LOOPBACK6, ROUTER, ROUTER6, "10.0.2.2", "10.0.2.3")
# What answers at each of them, by TCP and by UDP, and what a name stands for.
ASK = f"""
import socket
from concurrent.futures import ThreadPoolExecutor
def ask(what):
    address, kind = what
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(3):
        try:
            with socket.socket(family, kind) as s:
                s.settimeout(2)
                s.connect((address, {PORT}))
                if kind == socket.SOCK_DGRAM:
                    s.send(b"?")
                return s.recv(100).decode()
        except OSError:
            pass
    return "-"
kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
with ThreadPoolExecutor(16) as pool:
    print(*pool.map(ask, [(address, kind) for kind in kinds for address in {ASKED!r}]))
print(socket.gethostbyname("{NAME}"))
""".replace("'", '"')
LISTEN = f"""
import socket
ears = [socket.create_server(("0.0.0.0", {OPEN}))]
print("up", flush=True)
input()
"""
UNSHARE = ("unshare", "--user", "--map-current-user", "--keep-caps", "--net", "--mount")
WAIT = ("cat",)
PATIENCE_S = 30
LOOKS_EVERY_S = 1  # pasta left alone, for ports that are listened to inside


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """One of the programs, which this host has."""
    name: str = request.param
    if missing := capabilities.program(name):
        pytest.skip(missing)
    return name


@contextmanager
def staged(sbx: Sbx, *words: object) -> Iterator[subprocess.Popen[str]]:
    """`sbx WORDS` in a network of the test's own, which ends with the block."""
    servers = sbx.home / "resolv.conf"
    servers.write_text(f"nameserver {LOOPBACK}\n")
    process = subprocess.Popen(
        [*UNSHARE, PYTHON, "-I", "-S", "-c", STAGE, str(servers), sbx.path, *map(str, words)],
        env=sbx.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def watchers(stage: int) -> list[int]:
    """What watches a program in the network of this process."""
    own = os.readlink(f"/proc/{stage}/ns/net")
    found = []
    for name in os.listdir("/proc"):
        try:
            if (
                name.isdigit()
                and b"foreign.watch" in Path(f"/proc/{name}/cmdline").read_bytes()
                and os.readlink(f"/proc/{name}/ns/net") == own
            ):
                found.append(int(name))
        except OSError:
            continue
    return found


def children(pid: int) -> list[int]:
    """The children of a process."""
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def serving(stage: int, mode: str) -> tuple[int, int]:
    """pids of the watcher and of the program, once that has begun."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for watcher in watchers(stage):
            for pid in children(watcher):
                if (
                    Path(f"/proc/{pid}/cmdline")
                    .read_bytes()
                    .split(b"\0")[0]
                    .endswith(mode.encode())
                ):
                    return watcher, pid
        time.sleep(0.02)
    raise AssertionError(f"no {mode} was started")


def answers(mode: str) -> str:
    """What ASK is to say: all that is outside answers, and nothing else."""
    outside = [OUTSIDE, OUTSIDE6 if mode == "pasta" else "-", *"-" * (len(ASKED) - 2)]
    return f"{' '.join(outside * 2)}\n{OUTSIDE}\n"


def listens(pid: int, port: int) -> bool:
    """Whether somebody listens on this port in the network of this process."""
    rows = [
        row.split()
        for family in ("tcp", "tcp6")
        for row in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]
    ]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def ended(pidfd: int) -> bool:
    """Whether the process ends."""
    return bool(select.select([pidfd], [], [], PATIENCE_S)[0])


def test_what_is_outside_is_reached_but_no_loopback(sbx: Sbx, mode: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    words = ("run", "--network", mode, "--report", report, "/", PYTHON, "-I", "-S", "-c", ASK)
    with staged(sbx, *words) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == answers(mode)
    warning = f"without rules of what may be reached: network.allow is not enforced by {mode}"
    assert warning in err
    found: dict[str, Any] = json.loads(report.read_text())
    assert "rules of what may be reached" in [row["lost"] for row in found["degradations"]]
    assert found["network_account"] == {"ports": [], "lost": ""}


def test_no_port_leads_in(sbx: Sbx, mode: str) -> None:
    words = ("run", "-i", "--network", mode, "/", PYTHON, "-I", "-S", "-c", LISTEN)
    with staged(sbx, *words) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        assert listens(process.pid, PORT)
        end = time.monotonic() + LOOKS_EVERY_S * 3
        while time.monotonic() < end:
            assert not listens(process.pid, OPEN)
            time.sleep(0.1)


def test_the_end_of_the_program_is_told(sbx: Sbx, mode: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    with staged(sbx, "run", "-i", "--network", mode, "--report", report, "/", *WAIT) as process:
        _, program = serving(process.pid, mode)
        assert process.stdin
        process.stdin.write("up\n")
        process.stdin.flush()
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        os.kill(program, signal.SIGKILL)
        assert process.stderr
        line = ""
        while "goes on" not in line:
            line = process.stderr.readline()
            assert line
        assert f"the sandbox goes on without {mode}, its network: it ended by signal 9" in line
        process.communicate("still\n", timeout=PATIENCE_S)
        assert process.returncode == 0
    assert json.loads(report.read_text())["network_account"]["lost"] == "it ended by signal 9"


def end_input(process: subprocess.Popen[str], _: int) -> None:
    """Let the command end."""
    process.communicate(timeout=PATIENCE_S)


def kill_session(process: subprocess.Popen[str], _: int) -> None:
    """Kill what started the sandbox."""
    for pid in children(process.pid):
        os.kill(pid, signal.SIGKILL)


def kill_watcher(_: subprocess.Popen[str], watcher: int) -> None:
    """Kill what stands between."""
    os.kill(watcher, signal.SIGKILL)


@pytest.mark.parametrize("way", [end_input, kill_session, kill_watcher])
def test_nothing_is_left_over(
    sbx: Sbx, mode: str, way: Callable[[subprocess.Popen[str], int], None]
) -> None:
    with staged(sbx, "run", "-i", "--network", mode, "/", *WAIT) as process:
        watcher, program = serving(process.pid, mode)
        both = [os.pidfd_open(pid) for pid in (watcher, program)]
        way(process, watcher)
        assert all(map(ended, both))
        for fd in both:
            os.close(fd)


def test_a_sandbox_in_the_background_keeps_its_network(sbx: Sbx, mode: str) -> None:
    script = (
        f"{sbx.path} run -d --name far --network {mode} / sleep 60 >/dev/null && read go;"
        f"{sbx.path} exec far {PYTHON} -I -S -c '{ASK}'; {sbx.path} rm -f far >/dev/null; read go"
    )
    stage = Sbx("/bin/sh", sbx.home, sbx.env)
    with staged(stage, "-c", script) as process:
        watcher, program = serving(process.pid, mode)
        both = [os.pidfd_open(pid) for pid in (watcher, program)]
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout
        assert process.stdout.readline() + process.stdout.readline() == answers(mode)
        assert all(map(ended, both))
        process.communicate("go\n", timeout=PATIENCE_S)
        for fd in both:
            os.close(fd)


def test_rules_and_ports_are_refused_before_anything_is_made(
    sbx: Sbx, mode: str, tmp_path: Path
) -> None:
    for option, value in (("--allow", "public"), ("-p", "8080:80"), ("--dns", "192.0.2.1")):
        done = sbx("run", "--network", mode, option, value, "/", "touch", tmp_path / "x")
        assert done.returncode == 2
        assert 'needs network.mode = "user" or "bridge"' in done.stderr
    done = sbx("run", "--policy", "strict", "--network", mode, "/", "true")
    assert done.returncode == 125
    assert f"sbx: error: cannot limit what is reached with --network {mode}\n" in done.stderr

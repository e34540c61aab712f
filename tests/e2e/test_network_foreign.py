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
PORT = 8099
OUTSIDE, LOOPBACK, ROUTER = "203.0.113.5", "127.0.0.1", "198.51.100.2"
# A network of the test's own, with servers: one may be reached, the one of its loopback not.
STAGE = f"""
import socket, subprocess, sys, threading
for line in (
    "link set lo up",
    "link add d0 type veth peer name d1",
    "addr add 198.51.100.1/24 dev d0",
    "addr add {OUTSIDE}/32 dev d0",
    "link set d0 up",
    "link set d1 up",
    "route add default via {ROUTER}",
):
    subprocess.run(["ip", *line.split()], check=True)
def serve(address):
    listener = socket.create_server((address, {PORT}))
    def answer():
        while True:
            connection, _ = listener.accept()
            connection.sendall(address.encode())
            connection.close()
    threading.Thread(target=answer, daemon=True).start()
serve("{OUTSIDE}")
serve("{LOOPBACK}")
plain = ("setpriv", "--inh-caps=-all", "--ambient-caps=-all")
sys.exit(subprocess.run([*plain, *sys.argv[1:]]).returncode)
"""
ASK = f"""
import socket
for address in ("{OUTSIDE}", "{LOOPBACK}", "{ROUTER}", "10.0.2.2"):
    try:
        with socket.create_connection((address, {PORT}), timeout=1.5) as s:
            s.settimeout(10)
            print(s.recv(100).decode())
    except OSError:
        print("-")
print(open("/etc/resolv.conf").read())
"""
UNSHARE = ("unshare", "--user", "--map-current-user", "--keep-caps", "--net")
WAIT = ("cat",)
PATIENCE_S = 30


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
    process = subprocess.Popen(
        [*UNSHARE, PYTHON, "-I", "-S", "-c", STAGE, sbx.path, *map(str, words)],
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


def ended(pidfd: int) -> bool:
    """Whether the process ends."""
    return bool(select.select([pidfd], [], [], PATIENCE_S)[0])


def test_what_is_outside_is_reached_but_no_loopback(sbx: Sbx, mode: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    words = ("run", "--network", mode, "--report", report, "/", PYTHON, "-I", "-S", "-c", ASK)
    with staged(sbx, *words) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.split("\n")[:4] == [OUTSIDE, "-", "-", "-"]
    assert "nameserver 10.0.2.3\n" in out
    warning = f"without rules of what may be reached: network.allow is not enforced by {mode}"
    assert warning in err
    found: dict[str, Any] = json.loads(report.read_text())
    assert "rules of what may be reached" in [row["lost"] for row in found["degradations"]]
    assert found["network_account"] == {"ports": [], "lost": ""}


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
        assert process.stdout.readline() == f"{OUTSIDE}\n"
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

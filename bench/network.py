"""User-mode networking beside its peers, and the host's loopback as the limit.

Every back end carries a network namespace with the same programs in it to the same servers on the
host's loopback, round after round. Machines differ and cores are shared: what counts are the
ratios within one run, and the CPU seconds that a back end needs for a gigabyte.
"""

import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.netspace import GATEWAY4, Space

MTU = 65520
SECONDS = "2"
# Connections one after the other, then with so many in flight.
SHORT, TOGETHER, MANY = 1000, 32, 20_000
TRIPS = 2000

CLIENT = """
import json, select, socket, statistics, sys, time
place = sys.argv[1], int(sys.argv[2])
short, together, many, trips = map(int, sys.argv[3:])
def once():
    began = time.perf_counter()
    with socket.create_connection(place, 30) as sock:
        took = time.perf_counter() - began
        sock.setsockopt(6, 1, 1)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert sock.recv(1) == b""
    return took
for _ in range(100):
    once()
began = time.perf_counter()
times = sorted(once() for _ in range(short))
found = {"connect_us": times[short // 2] * 1e6, "connect_p99_us": times[short * 99 // 100] * 1e6,
         "short_s": short / (time.perf_counter() - began)}
with socket.create_connection(place, 30) as sock:
    sock.setsockopt(6, 1, 1)
    times = []
    for _ in range(trips):
        began = time.perf_counter()
        sock.sendall(b"x" * 64)
        assert len(sock.recv(64)) == 64
        times.append(time.perf_counter() - began)
    found["trip_us"] = statistics.median(times) * 1e6
epoll = select.epoll()
left, going, failed = many, {}, 0
def start():
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(place)
    going[sock.fileno()] = sock
    epoll.register(sock, select.EPOLLOUT)
began = time.perf_counter()
for _ in range(together):
    start()
left -= together
while going:
    events = epoll.poll(30)
    assert events, "nothing comes any more"
    for fd, mask in events:
        sock = going[fd]
        try:
            if mask & select.EPOLLOUT and not mask & select.EPOLLIN:
                sock.send(b"x")
                epoll.modify(fd, select.EPOLLIN)
                continue
            if sock.recv(1) == b"x":
                continue
        except OSError:
            failed += 1
        del going[fd]
        sock.close()
        if left:
            left -= 1
            start()
found["together_s"] = many / (time.perf_counter() - began)
found["errors"] = failed
print(json.dumps(found))
"""

SERVER = """
import select, socket
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen(4096)
server.setblocking(False)
print(server.getsockname()[1], flush=True)
epoll = select.epoll()
epoll.register(server, select.EPOLLIN)
open_socks = {}
while True:
    for fd, _ in epoll.poll():
        if fd == server.fileno():
            try:
                while True:
                    sock, _ = server.accept()
                    sock.setblocking(False)
                    sock.setsockopt(6, 1, 1)
                    open_socks[sock.fileno()] = sock
                    epoll.register(sock, select.EPOLLIN)
            except BlockingIOError:
                continue
        sock = open_socks[fd]
        try:
            data = sock.recv(4096)
            if data:
                sock.send(data)
            # The server ends short connections: else TIME_WAIT fills the client's ports.
            if data == b"x":
                data = b""
        except OSError:
            data = b""
        if not data:
            del open_socks[fd]
            sock.close()
"""


class Backend:
    """One way into the host: `place` is how its loopback is called inside, `pids` do the work."""

    name = "host loopback"
    place = "127.0.0.1"
    pids: tuple[int, ...] = ()

    def enter(self, argv: list[str]) -> list[str]:
        """The command line that runs argv where the back end carries the network."""
        return argv

    def close(self) -> None:
        """End it."""

    def cpu_s(self) -> float:
        """CPU seconds of its processes so far."""
        total = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Their resident memory."""
        texts = (Path(f"/proc/{pid}/status").read_text() for pid in self.pids)
        return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in texts) / 1024


class Ours(Backend):
    """The supervisor of this package."""

    name = "sbx"
    place = GATEWAY4

    def __init__(self) -> None:
        self._space = Space(("*",))
        self.pids = (self._space.supervisor.pid,)

    def enter(self, argv: list[str]) -> list[str]:
        return [*_nsenter(self._space.holder.pid), *argv]

    def close(self) -> None:
        self._space.end()


class _Peer(Backend):
    def __init__(self, command: Callable[[int], list[str]], place: str) -> None:
        self.place = place
        self._holder = subprocess.Popen(["unshare", "-Urn", "sleep", "3600"])
        own = os.readlink("/proc/self/ns/net")
        wait_for(lambda: os.readlink(f"/proc/{self._holder.pid}/ns/net") != own)
        wait_for(lambda: Path(f"/proc/{self._holder.pid}/comm").read_text() == "sleep\n")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._program = subprocess.Popen(command(self._holder.pid), **quiet)  # type: ignore[call-overload]
        self.pids = (self._program.pid,)
        route = [*_nsenter(self._holder.pid), "ip", "route", "show", "default"]
        wait_for(lambda: subprocess.run(route, capture_output=True, check=False).stdout != b"")

    def enter(self, argv: list[str]) -> list[str]:
        return [*_nsenter(self._holder.pid), *argv]

    def close(self) -> None:
        for process in (self._program, self._holder):
            process.kill()
            process.wait()


class Slirp(_Peer):
    name = "slirp4netns"

    def __init__(self) -> None:
        words = ["slirp4netns", "--configure", f"--mtu={MTU}"]
        super().__init__(lambda pid: [*words, str(pid), "tap0"], "10.0.2.2")


class Pasta(_Peer):
    name = "pasta"

    def __init__(self) -> None:
        words = f"pasta -f -q --config-net -m {MTU} -t none -u none -T none -U none".split()
        route = subprocess.run(
            ["ip", "-4", "route", "show", "default"], capture_output=True, text=True, check=True
        )
        super().__init__(lambda pid: [*words, str(pid)], route.stdout.split()[2])


def _nsenter(pid: int) -> list[str]:
    return ["nsenter", "-t", str(pid), "-U", "-n", "--preserve-credentials"]


def wait_for(good: Callable[[], bool]) -> None:
    """Wait until something holds, not for ever."""
    end = time.monotonic() + 10
    while True:
        with suppress(OSError):
            if good():
                return
        if time.monotonic() > end:
            raise TimeoutError("a back end does not come up")
        time.sleep(0.01)


def iperf(backend: Backend, options: list[str]) -> dict[str, Any]:
    """One run of iperf3 against a fresh server, and the back end's CPU seconds with it."""
    with socket.socket() as picked:
        picked.bind(("127.0.0.1", 0))
        port = str(picked.getsockname()[1])
    # A server keeps state after a run that failed.
    with subprocess.Popen(
        ["iperf3", "-s", "-1", "-p", port, "-B", "127.0.0.1"], stdout=subprocess.DEVNULL
    ) as server:
        try:
            wait_for(lambda: _listens(int(port)))
            before = backend.cpu_s()
            client = ["iperf3", "-c", backend.place, "-p", port, "-J", "-t", SECONDS, *options]
            done = subprocess.run(
                backend.enter(client), capture_output=True, text=True, timeout=60, check=False
            )
            found: dict[str, Any] = json.loads(done.stdout)
            found["cpu_s"] = backend.cpu_s() - before
            if "error" in found:
                raise RuntimeError(f"{backend.name}: iperf3: {found['error']}")
            return found
        finally:
            server.kill()


def _listens(port: int) -> bool:
    return f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()


def stream(backend: Backend, options: list[str]) -> tuple[float, float]:
    """Gbit/s of one TCP stream, and CPU seconds a GB."""
    found = iperf(backend, options)
    end = found["end"]["sum_received"]
    return end["bits_per_second"] / 1e9, found["cpu_s"] / (end["bytes"] / 1e9)


def datagrams(backend: Backend, options: list[str]) -> float:
    """Gbit/s of 1400-byte datagrams that arrive, sent as fast as can be."""
    end = iperf(backend, ["-u", "-b", "0", "-l", "1400", *options])["end"]["sum"]
    delivered = 1 - end["lost_percent"] / 100
    return float(end["bits_per_second"] * delivered / 1e9)


def short(backend: Backend, port: int) -> dict[str, float]:
    """Connects, round trips, connections a second."""
    numbers = [str(number) for number in (port, SHORT, TOGETHER, MANY, TRIPS)]
    argv = backend.enter([sys.executable, "-I", "-c", CLIENT, backend.place, *numbers])
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    return dict(json.loads(done.stdout))


COLUMNS = {
    "up": "up Gbit/s",
    "down": "down",
    "up_cpu": "CPU s/GB up",
    "down_cpu": "down",
    "connect_us": "connect µs",
    "connect_p99_us": "p99",
    "trip_us": "64 B trip µs",
    "short_s": "conn/s",
    "together_s": f"conn/s x{TOGETHER}",
    "errors": "errors",
    "udp_up": "UDP 1400 up",
    "udp_down": "down",
    "rss": "RSS MiB",
}


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Medians of every back end that runs here; what one fails at is missing in its row."""
    programs: dict[str, type[Backend]] = {"iperf3": Backend}
    programs |= {"unshare": Ours, "slirp4netns": Slirp, "pasta": Pasta}
    if not shutil.which("iperf3"):
        print("\nNetworking: iperf3 is missing")
        return {}
    kinds = [kind for program, kind in programs.items() if shutil.which(program)]
    rows: dict[str, dict[str, list[float]]] = {kind.name: {} for kind in kinds}
    with subprocess.Popen(
        [sys.executable, "-I", "-c", SERVER], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None  # noqa: S101
        port = int(server.stdout.readline())
        try:
            for _ in range(rounds):
                for part in (streams, lambda backend: short(backend, port), udp):
                    for kind in kinds:
                        for key, value in once(kind, part).items():
                            rows[kind.name].setdefault(key, []).append(value)
        finally:
            server.kill()
    return {
        name: {key: statistics.median(row[key]) if key in row else math.nan for key in COLUMNS}
        for name, row in rows.items()
    }


def once(kind: type[Backend], part: Callable[[Backend], dict[str, float]]) -> dict[str, float]:
    """One part of a round; slirp4netns is known to end in the midst of one."""
    backend = kind()
    try:
        found = part(backend)
        return {**found, "rss": backend.rss_mib()}
    except (OSError, RuntimeError, subprocess.SubprocessError, ValueError) as error:
        print(f"{kind.name} failed: {type(error).__name__}", file=sys.stderr)
        return {}
    finally:
        backend.close()


def streams(backend: Backend) -> dict[str, float]:
    """One TCP stream each way."""
    up, up_cpu = stream(backend, [])
    down, down_cpu = stream(backend, ["-R"])
    return {"up": up, "up_cpu": up_cpu, "down": down, "down_cpu": down_cpu}


def udp(backend: Backend) -> dict[str, float]:
    """Datagrams each way."""
    return {"udp_up": datagrams(backend, []), "udp_down": datagrams(backend, ["-R"])}


def main(rounds: int = 3) -> None:
    """Print the table and what was wanted."""
    rows = measure(rounds)
    if not rows:
        return
    print(f"\nNetworking through the gateway to the host's loopback, medians of {rounds} rounds\n")
    names = list(rows)
    print(f"{'':<16}" + "".join(f"{name:>15}" for name in names))
    for key, title in COLUMNS.items():
        print(f"{title:<16}" + "".join(f"{rows[name][key]:15,.2f}" for name in names))
    ours, host = rows["sbx"], rows["host loopback"]
    wanted: list[tuple[str, bool]] = []
    for peer, up, down in (("slirp4netns", 5, 2), ("pasta", 1, 1)):
        if peer in rows:
            ratio = ours["up"] / rows[peer]["up"], ours["down"] / rows[peer]["down"]
            wanted.append((f"up {ratio[0]:.1f} x {peer}, wanted {up}", ratio[0] >= up))
            wanted.append((f"down {ratio[1]:.1f} x {peer}, wanted {down}", ratio[1] >= down))
    if "pasta" in rows:
        for key in ("udp_up", "udp_down"):
            part = ours[key] / rows["pasta"][key]
            wanted.append((f"{key} {part:.2f} x pasta, wanted 1", part >= 1))
    trip = ours["trip_us"] - host["trip_us"]
    wanted += [
        (f"CPU s/GB {ours['up_cpu']:.2f} up, wanted 0.35", ours["up_cpu"] <= 0.35),
        (f"CPU s/GB {ours['down_cpu']:.2f} down, wanted 0.35", ours["down_cpu"] <= 0.35),
        (f"connect {ours['connect_us']:.0f} µs, wanted 250", ours["connect_us"] <= 250),
        (f"{ours['short_s']:.0f} connections/s, wanted 2500", ours["short_s"] >= 2500),
        (f"{ours['together_s']:.0f} of {TOGETHER}, wanted 5000", ours["together_s"] >= 5000),
        (f"{ours['errors']:.0f} errors of {MANY}, wanted none", ours["errors"] == 0),
        (f"round trip {trip:.0f} µs over the host's, wanted 60", trip <= 60),
        (f"{ours['rss']:.1f} MiB, wanted 25", ours["rss"] <= 25),
    ]
    print()
    for text, met in wanted:
        print(f"  {'met   ' if met else 'MISSED'}  {text}")


if __name__ == "__main__":
    main(int(os.environ.get("BENCH_ROUNDS", "3")))

"""What a network of root's costs: a start on it, and bytes through it beside a plain cable.

As root, in network namespaces of its own: tests/support/setup.sh bench-root.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench import clock
from tests.support.worlds import STATE, Host, Namespace

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "30"))
SECONDS = 2.0
PORT = 5001
MORE_MS = 15.0  # what a start on a network may take more
RATIO = 0.95  # of a plain cable's throughput

_RECEIVE = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(sys.argv[1]))); s.listen()
print("ready", flush=True)
buffer = bytearray(1 << 20)
while True:
    c, _ = s.accept()
    while c.recv_into(buffer): pass
"""
_SEND = """
import socket, sys, time
s = socket.socket(); s.connect((sys.argv[1], int(sys.argv[2])))
block, sent = bytes(1 << 20), 0
end = time.perf_counter() + float(sys.argv[3])
began = time.perf_counter()
while time.perf_counter() < end: sent += s.send(block)
print(sent * 8 / (time.perf_counter() - began) / 1e9)
"""


def _plain(host: Host) -> tuple[Namespace, str]:
    """Another namespace at the end of a plain cable, and the host's address there."""
    far = Namespace(host.env)
    host("ip", "link", "add", "plain0", "type", "veth", "peer", "name", "plain1")
    host("ip", "link", "set", "plain1", "netns", far.holder.pid)
    for space, link, address in ((host, "plain0", "198.51.100.1"), (far, "plain1", "198.51.100.2")):
        space("ip", "address", "add", f"{address}/24", "dev", link)
        space("ip", "link", "set", link, "up")
    return far, "198.51.100.1"


def _starts(host: Host) -> None:
    enter = shutil.which("nsenter") or "nsenter"
    into = [
        enter,
        "-t",
        str(host.holder.pid),
        "-n",
        "-m",
        host.sbx_path,
        "run",
        "-q",
        "--read-only",
    ]
    entries = [
        clock.Entry(f"sbx run --network {mode}", clock.spawn([*into, *words, *tail], host.env))
        for mode, words in (
            ("none", ["--network", "none"]),
            ("bridge", ["--network", "bridge"]),
            ("bridge -p", ["--network", "bridge", "-p", "8080:80"]),
        )
        for tail in ([str(host.root), "true"],)
    ]
    clock.measure(entries, ROUNDS)
    clock.table("A start on a network of root's", entries, entries[0].name, {})
    more = (entries[1].median_s - entries[0].median_s) * 1e3
    met = "met" if more <= MORE_MS else "MISSED"
    print(f"\na network adds {more:.1f} ms, at most {MORE_MS:.0f}: {met}")


def _throughput(host: Host) -> None:
    """Interleaved: to the host by a plain cable, and to another sandbox by the bridge."""
    far, where = _plain(host)
    try:
        host.serve(_RECEIVE, PORT)
        host.detach(
            "receiver", "--network", "bridge", script=_RECEIVE.replace("sys.argv[1]", str(PORT))
        )
        host.detach("sender", "--network", "bridge")
        address = host.address("receiver")
        found: dict[str, list[float]] = {"plain veth": [], "bridge": []}
        for _ in range(5):
            found["plain veth"].append(float(far.python(_SEND, where, PORT, SECONDS)))
            words = ("exec", "sender", "python3", "-c", _SEND, address, PORT, SECONDS)
            found["bridge"].append(float(host.good(*words)))
    finally:
        host.good("rm", "-f", "receiver", "sender")
        far.close()
    plain, bridge = (sorted(each)[len(each) // 2] for each in found.values())
    print("\nOne TCP stream, Gbit/s, median of 5\n")
    print(f"{'plain veth, host to a namespace':<44} {plain:9.1f}")
    print(f"{'sandbox to sandbox by the bridge':<44} {bridge:9.1f}")
    met = "met" if bridge / plain >= RATIO else "MISSED"
    print(f"\nratio {bridge / plain:.2f}, at least {RATIO}: {met}")


def main() -> None:
    """Print both tables."""
    STATE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sbx-bench-") as home:
        sbx = os.environ.get("SBX_TEST_SBX") or str(Path(sys.executable).parent / "sbx")
        host = Host(sbx, Path(os.environ["SBX_TEST_DEBIAN"]), Path(home))
        try:
            host.detach("first", "--network", "bridge")
            _starts(host)
            _throughput(host)
        finally:
            host.close()


if __name__ == "__main__":
    main()

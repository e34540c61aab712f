"""Questions to the name server of a sandbox: how many a second, through the whole of its network.

The name server that it asks is on the host's loopback and answers everything at once.
"""

import json
import subprocess
import sys
from pathlib import Path

ONE, MANY, TOGETHER, WANTED = 5000, 30_000, 32, 10_000

SERVER = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
tail = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\1\\x2c\\0\\4\\x08\\x08\\x08\\x08"
while True:
    asked, client = sock.recvfrom(4096)
    end = asked.index(b"\\0", 12) + 5
    sock.sendto(asked[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + asked[12:end] + tail, client)
"""
CLIENT = """
import json, socket, struct, sys, time
one, many, together = map(int, sys.argv[1:])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("10.0.2.3", 53))
sock.settimeout(5)
def ask(number, name):
    head = struct.pack("!HHHHHH", number & 0xFFFF, 0x100, 1, 0, 0, 0)
    sock.send(head + b"\\x07n%06d\\x03sbx\\x07example\\0\\0\\1\\0\\1" % name)
def rate(count, window, name):
    began, sent = time.perf_counter(), 0
    for got in range(count):
        while sent < count and sent - got < window:
            ask(sent, name(sent))
            sent += 1
        assert sock.recv(4096)[3] & 15 == 0
    return count / (time.perf_counter() - began)
rate(100, 1, lambda n: 900000 + n)
print(json.dumps({
    "one at a time": rate(one, 1, lambda n: n),
    "in flight": rate(many, together, lambda n: 100000 + n),
    "known already": rate(many, together, lambda n: 900000 + n % 100),
}))
"""


def measure() -> dict[str, float]:
    """Questions a second, of each kind."""
    sbx = str(Path(sys.executable).parent / "sbx")
    with subprocess.Popen(
        [sys.executable, "-I", "-c", SERVER], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None  # noqa: S101
        try:
            place = f"127.0.0.1:{server.stdout.readline().strip()}"
            network = ("--network", "user", "--dns", place, "--allow", "*.sbx.example")
            numbers = map(str, (ONE, MANY, TOGETHER))
            client = ("/usr/bin/python3", "-I", "-c", CLIENT, *numbers)
            done = subprocess.run(
                [sbx, "run", "--quiet", *network, "/", *client],
                stdout=subprocess.PIPE,
                text=True,
                timeout=120,
                check=True,
            )
            return dict(json.loads(done.stdout))
        finally:
            server.kill()


def main() -> None:
    """Print the figures and what was wanted."""
    found = measure()
    print("\nQuestions a second to the name server of a sandbox\n")
    for name, value in found.items():
        shown = f"{TOGETHER} {name}" if name == "in flight" else name
        print(f"  {shown:<16}{value:12,.0f}")
    met = found["in flight"] >= WANTED
    print(f"\n  {'met   ' if met else 'MISSED'}  {found['in flight']:.0f} q/s, wanted {WANTED}")


if __name__ == "__main__":
    main()

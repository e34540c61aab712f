"""A network namespace made by a normal user, with the supervisor of user-mode networking beside it.

Sockets of the namespace are made by its holder and passed here: a test holds both ends, the
sandbox's and the host's, in one process.
"""

import json
import marshal
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sandbox

ROOT = str(Path(__file__).parents[2])
PATHS = [str(Path(sandbox.__file__).parents[1]), ROOT]
SANDBOX4, GATEWAY4, DNS4 = "10.0.2.100", "10.0.2.2", "10.0.2.3"
SANDBOX6, GATEWAY6, DNS6 = "fd00:73:6278::100", "fd00:73:6278::2", "fd00:73:6278::3"
LISTEN4, LISTEN6 = "127.83.98.1", "::1"
MARK = 1
IP_TRANSPARENT, IPV6_TRANSPARENT, SO_MARK = 19, 75, 36
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 1, 0x1000, 0x4000
DEADLINE_S = 30

LINKS = f"""
link set lo up
addr add {LISTEN4}/32 dev lo
link set tun0 mtu 65520
addr add {SANDBOX4}/24 dev tun0
addr add {SANDBOX6}/64 dev tun0 nodad
link set tun0 up
"""
ROUTES = """
route add default dev tun0
rule add fwmark 1 lookup 100
route add local default dev lo table 100
"""


def addresses() -> tuple[bytes, ...]:
    """The configuration's addresses."""
    return (
        *(socket.inet_pton(socket.AF_INET, text) for text in (SANDBOX4, GATEWAY4, DNS4)),
        *(socket.inet_pton(socket.AF_INET6, text) for text in (SANDBOX6, GATEWAY6, DNS6)),
    )


def hold(fd: int, tun: bool) -> None:
    """In the new namespace: make what the supervisor needs, then sockets on request."""
    import fcntl

    from sandbox.host.network import NetworkFacts
    from sandbox.linux import netlink
    from sandbox.plan import endpoints

    channel = socket.socket(fileno=fd)
    made: dict[str, int] = {}
    if tun:
        made["tun"] = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(made["tun"], TUNSETIFF, struct.pack("16sH22x", b"tun0", flags))
        fcntl.ioctl(made["tun"], TUNSETOFFLOAD, 7)
    else:
        subprocess.run(["ip", "link", "add", "tun0", "type", "veth"], check=True)
    for option, lines in (((), LINKS), (("-4",), ROUTES), (("-6",), ROUTES)):
        subprocess.run(["ip", *option, "-batch", "-"], input=lines.encode(), check=True)
    rules = endpoints._rules(NetworkFacts("" if tun else "none is wanted", "", ""))
    netlink.ask(rules.protocol, rules.batch)
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    sockets = []
    for digit, family, address in (("4", socket.AF_INET, LISTEN4), ("6", socket.AF_INET6, LISTEN6)):
        listener = socket.socket(family)
        if digit == "4":
            listener.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((address, 1))
        listener.listen(4096)
        raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        raw.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
        seed = socket.socket(family)
        sockets += [listener, raw, seed]
        made |= {
            f"tcp{digit}": listener.fileno(),
            f"raw{digit}": raw.fileno(),
            f"seed{digit}": seed.fileno(),
        }
    if not tun:
        names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        subprocess.run(["ip", "addr", "add", f"{DNS4}/32", "dev", "lo"], check=True)
        names.bind((DNS4, 53))
        sockets.append(names)
        made["dns4u"] = names.fileno()
    socket.send_fds(channel, [marshal.dumps(tuple(made))], list(made.values()))
    for sock in sockets:
        sock.close()
    if tun:
        os.close(made["tun"])
    while request := channel.recv(100):
        family, kind, protocol = marshal.loads(request)  # noqa: S302
        try:
            with socket.socket(family, kind, protocol) as sock:
                socket.send_fds(channel, [b"\0"], [sock.fileno()])
        except OSError as error:
            channel.send(bytes([error.errno or 255]))


class Space:
    """One namespace and its supervisor."""

    def __init__(
        self,
        allow: Sequence[str] = ("*",),
        *,
        published: Sequence[tuple[socket.socket, int]] = (),
        limits: Mapping[str, int] | None = None,
        tun: bool = True,
        debug: bool = False,
    ) -> None:
        self.messages: list[str] = []
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(DEADLINE_S)
        code = (
            f"import sys; sys.path[:0] = {PATHS!r}; from tests.support.netspace import hold; "
            f"hold({theirs.fileno()}, {tun})"
        )
        self.holder = subprocess.Popen(
            ["unshare", "-Urn", sys.executable, "-c", code], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        data, descriptors, _, _ = socket.recv_fds(self._channel, 4096, 64)
        assert data, "the namespace could not be made"
        self.names = dict(zip(marshal.loads(data), descriptors, strict=True))  # noqa: S302
        config = {
            "addresses": addresses(),
            "allow": tuple(allow),
            "limits": dict(limits or {}),
            "debug": debug,
        }
        self._start(config, published)

    def _start(
        self, config: dict[str, Any], published: Sequence[tuple[socket.socket, int]]
    ) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(DEADLINE_S)
        code = (
            f"import sys; sys.path[:0] = {PATHS!r}; "
            "from sandbox.services.network.user.serve import serve; "
            f"from tests.support.netparts import parts; serve({theirs.fileno()}, parts)"
        )
        python = [sys.executable, "-I", "-S", "-B", "-c", code]
        self.supervisor = subprocess.Popen(python, pass_fds=[theirs.fileno()], env={})
        theirs.close()
        self._account = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as file:
            file.write(marshal.dumps(config))
            file.flush()
            pidfd = os.pidfd_open(self.holder.pid)
            own = {"config": file.fileno(), "pidfd": pidfd, "account": self._account.fileno()}
            self._hand_over(own)
            os.close(pidfd)
        for sock, port in published:
            self._hand_over({("publish", port): sock.fileno()})
        self._hand_over(self.names)
        for fd in self.names.values():
            os.close(fd)
        self.control.send(marshal.dumps(("start",)))
        assert self.control.recv(1000) == b"ready"

    def _hand_over(self, files: Mapping[Any, int]) -> None:
        socket.send_fds(self.control, [marshal.dumps(tuple(files))], list(files.values()))

    def make(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of the namespace, with a time-out."""
        self._channel.send(marshal.dumps((int(family), int(kind), protocol)))
        data, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        if not descriptors:
            raise OSError(data[0], os.strerror(data[0]))
        made = socket.socket(fileno=descriptors[0])
        made.settimeout(DEADLINE_S)
        return made

    def tcp(self, six: bool = False) -> socket.socket:
        """A TCP socket of the namespace."""
        return self.make(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)

    def udp(self, six: bool = False) -> socket.socket:
        """A UDP socket of the namespace."""
        return self.make(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace."""
        enter = ["nsenter", "-t", str(self.holder.pid), "-U", "-n", "--preserve-credentials"]
        options = {"capture_output": True, "text": True, "timeout": DEADLINE_S} | options
        return subprocess.run([*enter, *command], check=False, **options)

    def account(self) -> dict[str, Any]:
        """What the supervisor has written last."""
        text = os.pread(self._account.fileno(), 1 << 20, 0)
        return dict(json.loads(text))

    def wait_account(self, good: Any) -> dict[str, Any]:
        """Wait until the account is as `good` wants it."""
        end = time.monotonic() + DEADLINE_S
        while True:
            with suppress(ValueError):
                if good(found := self.account()):
                    return found
            assert time.monotonic() < end, found
            time.sleep(0.05)

    def rss_mib(self) -> float:
        """The supervisor's resident memory."""
        text = Path(f"/proc/{self.supervisor.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) / 1024

    def cpu_s(self) -> float:
        """The supervisor's CPU seconds."""
        fields = Path(f"/proc/{self.supervisor.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        """End the sandbox; the supervisor's exit status."""
        self._channel.close()
        self.holder.wait(DEADLINE_S)
        try:
            return self.supervisor.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.supervisor.send_signal(signal.SIGKILL)
            self.supervisor.wait()
            raise
        finally:
            self.control.close()
            self._account.close()


@contextmanager
def space(*args: Any, ends: int = 0, **kwargs: Any) -> Iterator[Space]:
    """A namespace for the time of a test; its supervisor must end with the status `ends`."""
    made = Space(*args, **kwargs)
    try:
        yield made
    finally:
        status = made.end()
    assert status == ends

"""The process that carries one sandbox's network: `main` takes over, serves, and ends with it.

It is started before the sandbox and given everything over a socket (SOCK_SEQPACKET): messages of
marshalled names, each with as many descriptors:

    "config"             a file with a marshalled dict, see `Config`
    "pidfd"              of the process with which all ends
    "account"            a file that is rewritten, as JSON, when something happened
    ("publish", port)    a socket of the host, listening or for datagrams, and the port inside
    "tun"                IFF_TUN | IFF_NO_PI | IFF_VNET_HDR; where there is none, connections are
                         accepted before their fate is known
    "tcp4", "tcp6"       transparent listeners of the sandbox's network namespace
    "raw4", "raw6"       raw sockets with the mark that leads to them
    "seed4", "seed6"     TCP sockets of the namespace, for published ports
    "dns4u", "dns6u"     without a TUN: sockets of the namespace, for questions by datagram

The message ("start",) has none: then the process confines itself, says b"ready" and serves. What
it has to tell later are lines on the same socket, "warning: …", and "denied: …" if asked for; at
its end "done", once the account is written.
"""

from __future__ import annotations

import json
import marshal
import os
from select import EPOLLIN
from socket import AF_UNIX, SO_TYPE, SOCK_DGRAM, SOCK_SEQPACKET, SOL_SOCKET, recv_fds, socket

from sandbox.policy.egress import parse_rules
from sandbox.services.network.user import confine, dns
from sandbox.services.network.user.account import Account
from sandbox.services.network.user.dns_tcp_server import TcpServer
from sandbox.services.network.user.egress import Egress
from sandbox.services.network.user.icmp import Icmp
from sandbox.services.network.user.loop import Loop
from sandbox.services.network.user.publish import Nursery, Published
from sandbox.services.network.user.relay import Hub
from sandbox.services.network.user.routes import Routes
from sandbox.services.network.user.setting import Limits, Setting, Site
from sandbox.services.network.user.tcp import Tcp
from sandbox.services.network.user.tun import Tun
from sandbox.services.network.user.udp import Udp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.services.network.user.setting import Judge, Resolver

    Parts = Callable[[Loop, dict[str, Any], Site, Account], tuple[Judge, Resolver]]

MESSAGE_MAX = 1 << 16
DESCRIPTORS_MAX = 250
CONFIG_MAX = 16 << 20
WRITE_S = 1.0
QUESTIONS_A_ROUND = 64
FAMILIES = (4, "tcp4", "raw4", "seed4"), (16, "tcp6", "raw6", "seed6")


class Received:
    """What has been handed over, by name."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.files: dict[str, int] = {}
        self.published: list[tuple[socket, int]] = []

    def take(self, channel: socket) -> bool:
        """Take one message; False for the last. Raises EOFError when the other end is gone."""
        data, descriptors, _, _ = recv_fds(channel, MESSAGE_MAX, DESCRIPTORS_MAX)
        if not data:
            raise EOFError
        names = marshal.loads(data)  # noqa: S302 - from the process that started this one
        if names == ("start",):
            return False
        for name, fd in zip(names, descriptors, strict=True):
            os.set_inheritable(fd, False)
            if name == "config":
                self.config = marshal.loads(os.pread(fd, CONFIG_MAX, 0))  # noqa: S302
                os.close(fd)
            elif isinstance(name, tuple):
                self.published.append((socket(fileno=fd), name[1]))
            else:
                self.files[name] = fd
        return True

    def sockets(self, family: tuple[int, str, str, str]) -> tuple[socket | None, ...]:
        """The listener, raw socket and seed of a family."""
        found = (self.files.pop(name, None) for name in family[1:])
        return tuple(None if fd is None else socket(fileno=fd) for fd in found)


class Server:
    """The parts of one sandbox's network, wired."""

    def __init__(self, channel: socket, received: Received, parts: Parts, most: int) -> None:
        config = received.config
        self._loop = loop = Loop()
        self._channel = channel
        self._account = Account()
        if config.get("debug"):
            self._account.tell = self.tell
        self._account_fd = received.files.pop("account", -1)
        self._written = -1
        site = Site(*config["addresses"])
        limits = Limits(config.get("limits", {}), most)
        egress, resolver = parts(loop, config, site, self._account)
        setting = Setting(loop, site, egress, self._account, limits)
        hub = Hub(loop, limits.pipes, limits.connections)
        tcp = Tcp(setting, hub, TcpServer(loop, resolver).serve)
        tun_fd = received.files.pop("tun", None)
        tun = None if tun_fd is None else Tun(loop, tun_fd)
        listeners: list[socket] = []
        raw: dict[int, socket] = {}
        nurseries: dict[int, Nursery] = {}
        for family in FAMILIES:
            listener, raw_socket, seed = received.sockets(family)
            if listener is not None:
                listeners.append(listener)
                if raw_socket is not None:
                    raw[family[0]] = raw_socket
                if seed is not None:
                    nurseries[listener.family] = Nursery(setting, tcp, seed, listener)
        tcp.start(tun, listeners, raw)
        published = Published(setting, hub, nurseries)
        if tun is not None:
            udp = Udp(setting, tun, resolver)
            Icmp(setting, tun)
            tun.start()
        for sock, port in received.published:
            if sock.getsockopt(SOL_SOCKET, SO_TYPE) != SOCK_DGRAM:
                published.publish(sock, port)
            elif tun is not None:
                udp.publish(sock, port)
        for name in ("dns4u", "dns6u"):
            if name in received.files:
                answer_datagrams(loop, socket(fileno=received.files.pop(name)), resolver)
        self._pidfd = received.files.pop("pidfd")
        loop.watch(self._pidfd, EPOLLIN, lambda _: loop.stop())
        channel.setblocking(False)
        loop.watch(channel.fileno(), EPOLLIN, lambda _: self._channel_ready())

    def run(self) -> None:
        """Serve until the sandbox has ended."""
        self._write()
        self.tell("ready")
        self._loop.run()
        self._write_account()
        self.tell("done")

    def tell(self, line: str) -> None:
        """Say something to who started this process, if it still listens."""
        try:
            self._channel.send(line.encode())
        except OSError:
            return

    def _channel_ready(self) -> None:
        """Nothing is to come any more, so it is the end of whoever started this process."""
        try:
            if self._channel.recv(MESSAGE_MAX):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._loop.forget(self._channel.fileno())

    def _write(self) -> None:
        self._write_account()
        self._loop.later(WRITE_S, self._write)

    def _write_account(self) -> None:
        if self._account_fd < 0:
            return
        text = json.dumps(self._account.as_dict(), separators=(",", ":")).encode()
        if hash(text) == self._written:
            return
        self._written = hash(text)
        try:
            os.pwrite(self._account_fd, text, 0)
            os.ftruncate(self._account_fd, len(text))
        except OSError as error:
            self._account_fd = -1
            self.tell(f"warning: cannot write the network account: {error.strerror}")


def answer_datagrams(loop: Loop, sock: socket, resolver: Resolver) -> None:
    """Answer questions that come to a socket of the namespace."""
    sock.setblocking(False)

    def ready(_mask: int) -> None:
        for _ in range(QUESTIONS_A_ROUND):
            try:
                message, peer = sock.recvfrom(MESSAGE_MAX)
            except OSError:
                return
            resolver.ask(message, answer_to(peer), stream=False)

    def answer_to(peer: Any) -> Callable[[bytes], None]:
        def answer(message: bytes) -> None:
            try:
                sock.sendto(message, peer)
            except OSError:
                return

        return answer

    loop.watch(sock.fileno(), EPOLLIN, ready)


def serve(fd: int, parts: Parts) -> None:
    """Take over from the socket `fd`, confine this process, and serve to the end."""
    channel = socket(AF_UNIX, SOCK_SEQPACKET, fileno=fd)
    try:
        # Signals of a terminal are for the sandbox.
        os.setsid()
    except PermissionError:
        pass
    most = confine.limit_resources()
    received = Received()
    try:
        while received.take(channel):
            pass
    except EOFError:
        return
    server = Server(channel, received, parts, most)
    confine.confine()
    server.run()


def main(fd: int) -> None:
    """Serve what the socket `fd` hands over, by the rules and name servers of its config."""
    serve(fd, _parts)


def _parts(
    loop: Loop, config: dict[str, Any], site: Site, account: Account
) -> tuple[Judge, Resolver]:
    gateways = {site.gateway4: bytes([127, 0, 0, 1])}
    if site.gateway6:
        gateways[site.gateway6] = bytes(15) + b"\1"
    routes = Routes()
    rules = parse_rules(config["allow"], config["deny"], sni=config["sni"])
    egress = Egress(rules, gateways, routes.own)
    hosts = dict.fromkeys(("host", "host.internal"), tuple(gateways))
    resolver = dns.Resolver(
        loop, egress, config["upstreams"], account, known=hosts.get, ipv6=routes.leads_ipv6
    )
    return egress, resolver

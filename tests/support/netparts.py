"""A judge and a resolver for tests of the supervisor: allowed is what is listed, names are fixed.

Entries: "*", "gateway:PORT" (the host's loopback), "ADDRESS", "ADDRESS:PORT", "sni/ADDRESS",
and "ADDRESS>TARGET", which leads elsewhere.
"""

from __future__ import annotations

import errno
from socket import AF_INET, AF_INET6, inet_pton

from sandbox.policy.egress import show_address
from sandbox.services.network.user.egress import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.services.network.user.account import Account
    from sandbox.services.network.user.egress import Gate
    from sandbox.services.network.user.loop import Loop
    from sandbox.services.network.user.setting import Site


def bytes_of(text: str) -> bytes:
    return inet_pton(AF_INET6 if ":" in text else AF_INET, text)


class Listed:
    def __init__(self, site: Site, allow: tuple[str, ...]) -> None:
        self._site = site
        self._allow = allow

    def judge(self, address: bytes, port: int, protocol: str) -> Verdict:
        del protocol
        place = show_address(address)
        target = address
        if address == self._site.gateway4:
            place, target = "gateway", b"\x7f\0\0\1"
        elif address == self._site.gateway6:
            place, target = "gateway", bytes(15) + b"\1"
        for rule in self._allow:
            if rule.startswith(f"{place}>"):
                other = bytes_of(rule.partition(">")[2])
                return Verdict(allowed=True, rule=rule, target=other)
            if rule in ("*", place, f"{place}:{port}", f"sni/{place}"):
                return Verdict(allowed=True, rule=rule, target=target)
        return Verdict(allowed=False, rule="not listed", target=target)

    def gate(self, verdict: Verdict, port: int) -> Gate | None:
        del port
        if not verdict.rule.startswith("sni/"):
            return None
        return lambda data: None if len(data) < 5 else data.startswith(b"hello")


class Echo:
    """Answers every message with itself; "twice" later."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def ask(self, message: bytes, answer: Callable[[bytes], None], *, stream: bool) -> None:
        if message == b"later":
            self._loop.later(0.05, lambda: answer(b"now"))
        else:
            answer((b"stream " if stream else b"datagram ") + message)


class Scarce:
    """An epoll that has no room for one watch of three (max_user_watches)."""

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll
        self._asked = 0

    def register(self, fd: int, events: int) -> None:
        self._asked += 1
        if self._asked % 3 == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._epoll.register(fd, events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


def parts(loop: Loop, config: dict[str, Any], site: Site, account: Account) -> Any:
    del account
    if "scarce" in config["limits"]:
        # In its first round: without what it begins with it does not serve at all.
        loop.soon(lambda: setattr(loop, "_epoll", Scarce(loop._epoll)))
    return Listed(site, config["allow"]), Echo(loop)
